"""The sweep as a user meets it, and its profile used by a later run and by nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import lab
from testbed.model.cache import default_cache

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]

EXPERIMENT = """
schema_version: 1
name: tiny
model: {name: resnet18, resolution: 64}
candidates: ["5"]
encoding: {features: int8+lz4}
engine: {channels_last: true, fold_batchnorm: true}
links:
  fast: {uplink: {rate: 80mbit}, downlink: {rate: 80mbit}}
policies: ["static:5"]
run: {duration: 500ms, warmup_queries: 2}
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


def command(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed", *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_sweep_then_a_run_that_uses_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUN_DIR", str(tmp_path / "labs"))
    # Profiles of this test are its own; exported models are everybody's.
    exports = default_cache()
    exports.mkdir(parents=True, exist_ok=True)
    (tmp_path / "testbed").mkdir()
    (tmp_path / "testbed/exports").symlink_to(exports)
    experiment = tmp_path / "tiny.yaml"
    experiment.write_text(EXPERIMENT)
    results = ("--results", str(tmp_path / "results"))

    swept = command("sweep", str(experiment), *results, cache=tmp_path)
    assert swept.returncode == 0, swept.stderr
    campaign = Path(json.loads(swept.stdout)["campaign"])
    profile = json.loads((campaign / "profile.json").read_text())
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
    coded = json.loads((campaign / "encodings.json").read_text())["batches"]["2"]
    assert coded["jpeg:75"]["offload"]["bytes"] < coded["uint8"]["offload"]["bytes"] / 2
    assert coded["int8+lz4"]["5"]["bytes"] < coded["float32"]["5"]["bytes"] / 3
    assert coded["float32"]["5"]["max_abs"] == 0
    assert 0 < coded["int8+lz4"]["5"]["mean_abs"] <= coded["int8+lz4"]["5"]["max_abs"]
    (cell,) = json.loads((campaign / "cells.json").read_text())["cells"]
    assert all(row["n"] >= 2 for row in cell["candidates"].values())
    assert (campaign / "report/report.html").stat().st_size < 3_000_000
    environment = json.loads(next(campaign.glob("runs/*/environment.device.json")).read_text())
    assert environment["engine"]["top1"]
    assert 0 < environment["engine"]["max_abs"] < 1e-4 * environment["engine"]["largest"]
    verified = json.loads((campaign / "verify.json").read_text())["splits"]["5"]
    assert verified["digest"]
    assert verified["images"] > 1

    # Whether the link is true is another test's question.
    ran = command("run", str(experiment), *results, "--allow-unverified", cache=tmp_path)
    assert ran.stdout, ran.stderr
    document = json.loads(ran.stdout)
    assert not document["failure"], ran.stderr
    assert "profile: reused from" in ran.stderr
    used = json.loads((Path(document["campaign"]) / "profile.json").read_text())
    assert used["candidates"] == one
    assert not (Path(document["campaign"]) / "profile").exists()
    assert lab.status() == []
