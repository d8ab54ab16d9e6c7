"""Time what splitting itself costs: finding bottlenecks, and a head and tail against the whole.

``python -m tests.bench.split`` prints and writes ``bench-split.json``: ``bottlenecks`` has the wall
time and the most memory of ``testbed bottlenecks`` in processes of their own, ``halves`` of each
model the median over its candidates of (head + tail) ÷ the eager network, runs interleaved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import torch

from testbed.config.experiment import ModelSpec
from testbed.model.cache import prepare
from testbed.model.engine import Engine
from testbed.model.export import PixelNetwork
from testbed.model.table import LOCAL, OFFLOAD
from testbed.model.zoo import build

SHAPES = {
    "efficientnet_b0": (3, ["efficientnet_b0"]),
    "timm:tf_efficientnetv2_xl at 512": (1, ["timm:tf_efficientnetv2_xl", "--resolution", "512"]),
}
HALVES = ("mobilenet_v2", "efficientnet_b0", "resnet18", "regnet_y_400mf", "shufflenet_v2_x1_0")
WARM, TURNS = 3, 25


def find_bottlenecks(arguments: list[str]) -> tuple[float, float]:
    """Seconds and MB of one call of the command."""
    argv = [sys.executable, "-m", "testbed", "bottlenecks", *arguments, "--json"]
    begun_ns = perf_counter_ns()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit status {process.returncode}")
    return (perf_counter_ns() - begun_ns) / 1e9, used.ru_maxrss / 1e3


def halves(name: str) -> dict[str, float]:
    """Head and tail of every candidate against the eager network, in turns on one thread."""
    prepared = prepare(ModelSpec(name=name))
    table = prepared.table
    candidates = table.candidates("compressive")
    engine = Engine(prepared.archive, prepared.archive_sha256, table, candidates, batch=1)
    eager = PixelNetwork(build(name, "random", 0, table.resolution)).eval()
    x = torch.randint(0, 256, (1, *table.input_shape), dtype=torch.uint8)
    inner = [split for split in candidates if split not in (OFFLOAD, LOCAL)]
    whole_ns: list[int] = []
    split_ns: dict[str, list[int]] = {split: [] for split in inner}
    for turn in range(WARM + TURNS):
        for split in inner:
            begun_ns = perf_counter_ns()
            with torch.inference_mode():
                eager(x)
            between_ns = perf_counter_ns()
            engine.tail(split, engine.head(split, x))
            if turn >= WARM:
                whole_ns.append(between_ns - begun_ns)
                split_ns[split].append(perf_counter_ns() - between_ns)
    ratios = [median(times) / median(whole_ns) for times in split_ns.values()]
    return {"ratio": median(ratios), "worst": max(ratios), "eager_ms": median(whole_ns) / 1e6,
            "candidates": len(inner), "n": TURNS}  # fmt: skip


def main() -> None:
    found = {}
    for name, (times, arguments) in SHAPES.items():
        runs = [find_bottlenecks(arguments) for _ in range(times)]
        seconds, most = median(run[0] for run in runs), max(run[1] for run in runs)
        found[name] = {"s": seconds, "most_mb": most, "n": times}
        print(f"bottlenecks {name}: {seconds:.1f} s, {most:.0f} MB (n = {times})", flush=True)
    torch.set_num_threads(1)
    ratios = {}
    for name in HALVES:
        ratios[name] = row = halves(name)
        print(
            f"{name}: head + tail {row['ratio']:.3f} of eager {row['eager_ms']:.1f} ms, at worst "
            f"{row['worst']:.3f} ({row['candidates']} candidates)",
            flush=True,
        )
    document = {"bottlenecks": found, "halves": ratios}
    Path("bench-split.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
