"""A seeded generator of campaigns that follows the record contract to the letter."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES, class_rate_bps, ip_bytes, serialisation_ns
from testbed.framing import burst_bytes as burst_of
from testbed.orchestrator.store import seal

MS = 10**6
S = 10**9
# Each host's monotonic clock minus the orchestrator's, and where the device's clock stood at go.
OFFSETS_NS = {"device": 7 * S, "router": -3 * S, "server": 11 * S}
DEVICE_T0_NS = 1_000 * S
REPLY_NS = 350_000  # of each remote query's network time
LINK_LEAD_NS = 4 * MS  # the router begins its replay this long before the device measures
BASE_NETWORK_NS = 800_000
# head, encode, decode, tail in ns; payload up in bytes: a device at a quarter of the server.
COSTS: dict[str, tuple[int, int, int, int, int]] = {
    "local": (165 * MS, 0, 0, 0, 0),
    "1": (24 * MS, 300_000, 200_000, 33 * MS, 150_528),
    "3": (58 * MS, 150_000, 100_000, 24 * MS, 62_720),
    "5": (84 * MS, 80_000, 60_000, 17 * MS, 31_360),
    "offload": (0, 200_000, 150_000, 41 * MS, 150_528),
}
BYTES_DOWN = 4_064

Maker = Callable[..., Path]


@dataclass(frozen=True)
class Synthetic:
    """What a generated campaign looks like."""

    policies: tuple[str, ...] = ("local", "offload", "static:1", "static:3", "static:5", "dynamic")
    links: tuple[str, ...] = ("wander",)
    loads: tuple[str, ...] = ("none",)
    trials: int = 1
    duration_s: int = 12
    seed: int = 1
    steps: tuple[tuple[int, int], ...] = ()  # (t_ns, bps); default: LTE-like
    fixed_ms: dict[str, float] = field(default_factory=dict)  # policy → every query's latency


def lte_like(seed: int, duration_s: int) -> list[tuple[int, int]]:
    """A rate that wanders between 1 and 40 Mbit/s in steps of 100 ms."""
    rng = random.Random(seed)
    level, steps = 8.0, []
    for n in range(duration_s * 10):
        level = min(40.0, max(1.0, level * 2 ** rng.gauss(0, 0.28)))
        steps.append((n * 100 * MS, round(level * 1e6)))
    return steps


def write_document(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps({"schema_version": 1, **document}, indent=1) + "\n")


def write_stream(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records))


def _rate_at(steps: list[tuple[int, int]], t_ns: float) -> int:
    return [bps for t, bps in steps if t <= max(0, t_ns)][-1]


def _carry_ns(steps: list[tuple[int, int]], start_ns: float, payload: int) -> float:
    """Time to carry a payload under stepping rates, by small strides: not the code under test."""
    rate = _rate_at(steps, start_ns)
    left = serialisation_ns(payload, rate) * rate / 1e9  # bits beyond the burst
    now = float(start_ns)
    while left > 1e-6:
        rate = _rate_at(steps, now)
        later = [t for t, _ in steps if t > now]
        stride = min(left / rate * 1e9, (later[0] - now) if later else 1e15)
        left -= stride * rate / 1e9
        now += max(stride, 1.0)
    return now - start_ns


class _RunMaker:
    def __init__(self, spec: Synthetic, plan: dict[str, Any], experiment: dict[str, Any]) -> None:
        self.spec, self.plan, self.experiment = spec, plan, experiment
        self.rng = random.Random(f"{plan['seed']} {plan['run_id']}")
        self.steps = [tuple(change) for change in plan["schedules"]["uplink"]["changes"]]
        self.carried = {"uplink": 0, "downlink": 0}
        self.samples: list[dict[str, Any]] = []

    def _predicted(self, split: str, rate_bps: float) -> int:
        head, encode, decode, tail, up = COSTS[split]
        network = serialisation_ns(up, rate_bps) + BASE_NETWORK_NS if up else 0
        return head + encode + decode + tail + network

    def _choose(self, estimate_bps: float) -> str:
        policy = self.plan["policy"]
        if policy == "dynamic":
            return min(COSTS, key=lambda split: self._predicted(split, estimate_bps))
        return str(policy).removeprefix("static:")

    def query(self, number: int, kind: str, start_ns: int) -> dict[str, Any]:
        """One query from its start, in ns since the device began to measure."""
        rate = _rate_at(self.steps, start_ns + LINK_LEAD_NS)
        estimate = round(rate * self.rng.lognormvariate(0, 0.06))
        split = self._choose(estimate)
        head, encode, decode, tail, up = COSTS[split]
        jitter = self.rng.lognormvariate(0, 0.04)
        head, tail = round(head * jitter), round(tail * jitter)
        decide = 30_000 if self.plan["policy"] == "dynamic" else 2_000
        wait = 120_000 if up else 0
        network = 0
        if up:
            sent = start_ns + decide + head + encode + LINK_LEAD_NS
            network = round(_carry_ns(self.steps, sent, up) + BASE_NETWORK_NS * jitter)
        e2e = decide + head + encode + network + wait + decode + tail
        fixed = self.spec.fixed_ms.get(self.plan["policy"])
        if fixed is not None:
            network += round(fixed * MS) - e2e
            e2e = round(fixed * MS)
        for side, size in (("uplink", up), ("downlink", BYTES_DOWN if up else 0)):
            self.carried[side] += ip_bytes(size) * LINK_FRAME_BYTES // MTU_BYTES
        dynamic = self.plan["policy"] == "dynamic"
        return {
            "run_id": self.plan["run_id"],
            "device": "device",
            "query": number,
            "kind": kind,
            "batch": 1,
            "policy": self.plan["policy"],
            "split": split,
            "encoding": {"local": "", "offload": "uint8"}.get(split, "float16"),
            "t_due_ns": DEVICE_T0_NS + start_ns,
            "t_start_ns": DEVICE_T0_NS + start_ns,
            "decide_ns": decide,
            "head_ns": head,
            "encode_ns": encode,
            "send_ns": network // 2,
            "uplink_ns": None,
            "server_wait_ns": wait,
            "decode_ns": decode,
            "tail_ns": tail,
            "reply_ns": None,
            "e2e_ns": e2e,
            "bytes_up": up,
            "bytes_down": BYTES_DOWN if up else 0,
            "rate_est_bps": estimate if dynamic else None,
            "load_est": 1.0,
            "predicted_ns": self._predicted(split, estimate) if dynamic else None,
            "network_ns": network,
            "span_bytes": up or None,
            "span_ns": network or None,
            "steal_ticks": 0,
            "status": "ok",
            "late": False,
        }

    def queries(self) -> list[dict[str, Any]]:
        """Warm-up, then a closed loop until the duration is over."""
        records = [self.query(n, "warmup", (n - 5) * 300 * MS) for n in range(5)]
        self.carried = dict.fromkeys(self.carried, 0)
        now, next_sample = 0, 0
        while now < self.spec.duration_s * S:
            while now >= next_sample:
                self._sample(next_sample)
                next_sample += S
            record = self.query(len(records), "measured", now)
            records.append(record)
            now += record["e2e_ns"]
        self._sample(self.spec.duration_s * S)
        return records

    def _on_link(self, t_ns: int) -> int:
        """A moment of the device's axis on the router's clock."""
        return DEVICE_T0_NS - OFFSETS_NS["device"] + OFFSETS_NS["router"] + t_ns

    def _sample(self, t_ns: int) -> None:
        for side, carried in self.carried.items():
            counters = {"bytes": carried, "packets": carried // 1514, "drops": 0}
            sample = {**counters, "backlog_bytes": 0, "overlimits": 0}
            self.samples.append({"direction": side, "t_ns": self._on_link(t_ns), "sample": sample})

    def link(self) -> list[dict[str, Any]]:
        """Every change as planned and applied, and the samples."""
        records: list[dict[str, Any]] = []
        for n, (t_ns, rate) in enumerate(self.steps):
            late = round(self.rng.lognormvariate(-1.2, 0.6) * MS)
            # The generator's network follows the plan, so what is late is late in the log alone.
            planned = self._on_link(t_ns - LINK_LEAD_NS) - late
            records.append(
                {
                    "direction": "uplink",
                    "n": n,
                    "t_planned_ns": planned,
                    "t_applied_ns": planned + late,
                    "late_ns": late,
                    "took_ns": 900_000,
                    "rate_bps": rate,
                    "class_bps": class_rate_bps(rate),
                    "burst_bytes": burst_of(rate),
                }
            )
        return [*records, *self.samples]


def _experiment(spec: Synthetic) -> dict[str, Any]:
    direction = {"rate": None, "trace": "traces/t.csv", "delay": 0, "queue": 256_000}
    link = {"uplink": direction, "downlink": direction, "step": 100 * MS, "end": "loop"}
    return {
        "name": "synthetic",
        "description": "Made by a generator, in the shape of a real campaign.",
        "model": {"name": "efficientnet_b0"},
        "encoding": {"input": "uint8", "features": "float16"},
        "batch": 1,
        "links": dict.fromkeys(spec.links, link),
        "policies": list(spec.policies),
        "run": {"duration": spec.duration_s * S, "trials": spec.trials},
        "seed": spec.seed,
    }


def _plans(spec: Synthetic) -> list[dict[str, Any]]:
    plans: list[dict[str, Any]] = []
    for trial in range(spec.trials):
        for number, link in enumerate(spec.links):
            for load in spec.loads:
                steps = list(spec.steps) or lte_like(spec.seed + number, spec.duration_s)
                up = {"changes": steps, "duration_ns": spec.duration_s * S, "end": "loop"}
                down = {"changes": [[0, 40_000_000]], "duration_ns": S, "end": "hold"}
                for policy in spec.policies:
                    plans.append(
                        {
                            "run_id": f"{link}.{load}.{policy.replace(':', '-')}.t{trial}.abc123",
                            "index": len(plans),
                            "link": link,
                            "load": load,
                            "policy": policy,
                            "trial": trial,
                            "seed": spec.seed + trial,
                            "batch": 1,
                            "duration_ns": spec.duration_s * S,
                            "schedules": {"uplink": up, "downlink": down},
                        }
                    )
    return plans


def environment_of(host: str, roles: tuple[str, ...]) -> dict[str, Any]:
    return {
        "roles": {role: {"python": "3.11.2"} for role in roles},
        "hostname": host,
        "kernel": "6.18.5",
        "cpu_model": "Example CPU",
        "cpu_count": 2,
        "governor": None,
        "frequency_hz": 2_012_345_678,
        "memory_bytes": 8_000_000_000,
        "celsius": 41.0,
        "busy_share": 0.031,
        "sysctls": {"net.ipv4.tcp_congestion_control": "cubic"},
        "after": {"celsius": 44.5},
    }


HOST_ROLES = {"device": ("device",), "router": ("link",), "server": ("server",)}


def write_run(folder: Path, spec: Synthetic, plan: dict[str, Any]) -> None:
    """One run's folder, the manifest last."""
    folder.mkdir(parents=True)
    write_document(folder / "plan.json", plan)
    for host, roles in HOST_ROLES.items():
        write_document(folder / f"environment.{host}.json", environment_of(host, roles))
    clocks = {
        host: {
            "before": {"offset_ns": offset, "bound_ns": 90_000, "n": 50, "t_ns": 0},
            "after": {"offset_ns": offset, "bound_ns": 85_000, "n": 50, "t_ns": 12 * S},
        }
        for host, offset in OFFSETS_NS.items()
    }
    write_document(folder / "clock.json", {"hosts": clocks})
    experiment = _experiment(spec)
    maker = _RunMaker(spec, plan, experiment)
    queries = maker.queries()
    write_stream(folder / "queries.jsonl", queries)
    write_stream(folder / "link.jsonl", maker.link())
    write_stream(folder / "load.jsonl", [])
    server_ns = DEVICE_T0_NS - OFFSETS_NS["device"] + OFFSETS_NS["server"]
    answered = [
        {
            "t_ns": r["t_start_ns"] + r["e2e_ns"] - REPLY_NS - DEVICE_T0_NS + server_ns,
            "event": "query",
            "query": r["query"],
        }
        for r in queries
        if r["bytes_up"]
    ]
    connected = {"t_ns": server_ns - 2 * S, "event": "connected", "peer": "10.0.0.2:4000"}
    write_stream(folder / "server.jsonl", [connected, *answered])
    link_t0 = DEVICE_T0_NS - OFFSETS_NS["device"] + OFFSETS_NS["router"] - LINK_LEAD_NS
    streams = {n: folder / f"{n}.jsonl" for n in ("queries", "link", "load", "server")}
    manifest = {
        "run_id": plan["run_id"],
        "state": "complete",
        "validity": "valid",
        "reasons": [],
        "others_share": {"device, router, server": 0.03},
        "experiment": experiment,
        "t0_ns": {"device": DEVICE_T0_NS, "link": link_t0},
        "link": {"changes": len(maker.steps), "late_p99_ns": MS, "late_max_ns": MS},
        "device": {"queries": len(queries) - 5, "faults": 3, "steal_share": 0.004},
        "server": {"queries": len(queries), "faults": 0, "cpu_ns": S},
        "counts": {n: len(path.read_text().splitlines()) for n, path in streams.items()},
        "checksums": {
            f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())
        },
    }
    write_document(folder / "manifest.json", manifest)


def write_campaign(root: Path, spec: Synthetic) -> Path:
    """A whole campaign folder."""
    root.mkdir(parents=True)
    plans = _plans(spec)
    for plan in plans:
        write_run(root / plan["run_id"], spec, plan)
    runs = [{**plan, "state": "complete"} for plan in plans]
    for run in runs:
        del run["schedules"]
    state = {"experiment": "synthetic", "state": "complete", "runs": runs}
    write_document(root / "campaign.json", {**state, "archive_sha256": "ab" * 32})
    write_document(root / "experiment.resolved.json", {"experiment": _experiment(spec)})
    names = ("head_ns", "encode_ns", "decode_ns", "tail_ns", "bytes_up")
    candidates = {s: dict(zip(names, costs, strict=True)) for s, costs in COSTS.items()}
    profile = {"model": "efficientnet_b0", "base_network_ns": BASE_NETWORK_NS}
    write_document(root / "profile.json", {**profile, "candidates": candidates})
    found = {"digest": True, "equal": False, "max_abs": 0.000731234567, "top1": True}
    splits = {split: found for split in COSTS if split != "local"}
    write_document(root / "verify.json", {"splits": splits})
    write_document(root / "link_verification.json", {"links": {}, "faults": []})
    seal(root, "complete")
    return root
