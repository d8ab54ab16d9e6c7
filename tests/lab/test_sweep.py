"""The sweep as a user meets it, and a run that uses its profile until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed import lab
from testbed.model.cache import default_cache

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]

EXPERIMENT = """
schema_version: 1
name: tiny
model: {name: squeezenet1_1, resolution: 64}
candidates: ["5"]
encoding: {features: int8+lz4}
engine: {channels_last: true, fold_batchnorm: true}
links:
  fast: {uplink: {rate: 80mbit}, downlink: {rate: 80mbit}}
policies: ["static:5"]
run: {duration: 60s, warmup_queries: 2, repeat_disturbed: 0}
profile: {queries: 8, rate: 80mbit, batches: [1, 2], tolerance: 1, budget: 1s, loads: [2]}
sweep:
  low: 40mbit
  high: 80mbit
  step: 20mbit
  cells: 1
  queries: 2
  inputs: [uint8, "jpeg:75"]
  features: [int8+lz4, float32]
"""
# Without CPU limits: they are another test's.
UNLIMITED = """
schema_version: 1
lab: local
hosts:
  device: {roles: [device]}
  router: {roles: [link]}
  server: {roles: [server, load]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The experiment; labs and profiles are these tests' own, exported models everybody's."""
    made = tmp_path_factory.mktemp("sweep")
    exports = default_cache()
    exports.mkdir(parents=True, exist_ok=True)
    (made / "testbed").mkdir()
    (made / "testbed/exports").symlink_to(exports)
    (made / "tiny.yaml").write_text(EXPERIMENT)
    (made / "lab.yaml").write_text(UNLIMITED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_RUN_DIR", str(made / "labs"))
        patch.setenv("XDG_CACHE_HOME", str(made))
        yield made
        lab.down_all()


def command(verb: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    files = [folder / "tiny.yaml", "-i", folder / "lab.yaml", "--results", folder / "results"]
    argv = [sys.executable, "-m", "testbed", verb, *files, *more, "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)


@pytest.fixture(scope="module")
def swept(folder: Path) -> Path:
    """The folder of a finished sweep."""
    process = command("sweep", folder)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return Path(json.loads(out)["campaign"])


@dataclass(frozen=True)
class Interrupted:
    """What a run said that was sent SIGINT, as by Ctrl-C, once its measured queries came in."""

    status: int
    document: dict[str, Any]
    stderr: str
    campaign: Path


@pytest.fixture(scope="module")
def interrupted(folder: Path, swept: Path) -> Interrupted:
    # Whether the link is true is another test's question.
    process = command("run", folder, "--allow-unverified")
    campaign = started_running(process, folder / "results")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Interrupted(process.returncode, json.loads(out), err, campaign)


def started_running(process: subprocess.Popen[str], results: Path) -> Path:
    """The campaign folder once a run's measured queries have begun to arrive."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in results.glob("*/*/*.t0.*/queries.jsonl"):
            if '"kind":"measured"' in path.read_text():
                return path.parents[1]
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no run began: {process.communicate(timeout=5)}")


def test_a_sweep_measures_splits_batches_loads_and_encodings(swept: Path) -> None:
    profile = json.loads((swept / "profile.json").read_text())
    assert set(profile["batches"]) == {"1", "2"}
    assert set(profile["stopped"].values()) <= {"tight", "budget"}
    one, two = (profile["batches"][b]["candidates"] for b in ("1", "2"))
    assert two["offload"]["bytes_up"] > 1.9 * one["offload"]["bytes_up"]
    assert one["5"]["encode_ns"] > 0
    loaded = profile["loads"]["2"]
    assert set(loaded["candidates"]) == {"offload", "5"}
    # Two clients that ask for the whole model leave a query waiting for one of them at least.
    waits = [found["wait_ns"] for found in loaded["candidates"].values()]
    assert min(waits) > one["offload"]["tail_ns"] / 2
    coded = json.loads((swept / "encodings.json").read_text())["batches"]["2"]
    assert coded["jpeg:75"]["offload"]["bytes"] < coded["uint8"]["offload"]["bytes"] / 2
    assert coded["int8+lz4"]["5"]["bytes"] < coded["float32"]["5"]["bytes"] / 3
    assert coded["float32"]["5"]["max_abs"] == 0
    assert 0 < coded["int8+lz4"]["5"]["mean_abs"] <= coded["int8+lz4"]["5"]["max_abs"]
    (cell,) = json.loads((swept / "cells.json").read_text())["cells"]
    assert all(row["n"] >= 2 for row in cell["candidates"].values())
    own = cell["candidates"]["local"]  # its head is all there is
    assert 0.8 < own["retimed_ns"] / own["measured_ns"] <= 1
    assert (swept / "report/report.html").stat().st_size < 3_000_000
    environment = json.loads(next(swept.glob("runs/*/environment.device.json")).read_text())
    assert environment["engine"]["top1"]
    assert 0 < environment["engine"]["max_abs"] < 1e-4 * environment["engine"]["largest"]
    verified = json.loads((swept / "verify.json").read_text())["splits"]["5"]
    assert verified["digest"]
    assert verified["images"] > 1


def test_a_run_uses_the_profile_of_a_sweep(swept: Path, interrupted: Interrupted) -> None:
    assert "profile: reused from" in interrupted.stderr
    used = json.loads((interrupted.campaign / "profile.json").read_text())
    measured = json.loads((swept / "profile.json").read_text())["batches"]["1"]
    assert used["candidates"] == measured["candidates"]
    assert not (interrupted.campaign / "profile").exists()


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing(interrupted: Interrupted) -> None:
    assert interrupted.status == 1
    assert "interrupted" in interrupted.stderr
    (manifest,) = interrupted.campaign.glob("*.t0.*/manifest.json")
    assert json.loads(manifest.read_text())["state"] == "interrupted"
    assert (manifest.parent / "queries.jsonl").read_text().splitlines()
    campaign = json.loads((interrupted.campaign / "campaign.json").read_text())
    assert campaign["state"] == "interrupted"
    assert interrupted.document["report"]
    assert lab.status() == []
