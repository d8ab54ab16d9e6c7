"""The whole thing as a user meets it: the command line, a lab, real runs, what is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from testbed import lab
from testbed.cli import main
from testbed.records import sha256_file

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]

EXPERIMENT = """
schema_version: 1
name: tiny
model: {name: squeezenet1_1, resolution: 64}
candidates: ["2", "5"]
encoding: {features: float32}
links:
  fast: {uplink: {rate: 50mbit}, downlink: {rate: 50mbit}, at: {far: slow}}
  slow: {uplink: {rate: 2mbit}, downlink: {rate: 50mbit}}
  steps: {uplink: {trace: steps.csv}, downlink: {rate: 50mbit}, step: 100ms}
loads:
  none: {kind: none}
  busy: {kind: inference, steps: [{t: 0s, clients: 1}]}
policies: [dynamic, "fleet:mixed"]
fleets: {mixed: {device1: "static:5", device2: local, device3: offload}}
crosses:
  - {links: [steps], loads: [none], policies: [dynamic]}
  - {links: [fast], loads: [busy], policies: ["fleet:mixed"]}
run: {duration: 1s, warmup_queries: 3, repeat_disturbed: 0}
profile: {queries: 4, rate: 50mbit}
"""
# Without CPU limits: they are another test's.
THREE_DEVICES = """
schema_version: 1
lab: local
devices: 3
hosts:
  device: {roles: [device]}
  near: {roles: [link], router: {devices: [device1, device2]}}
  far: {roles: [link], router: {devices: [device3]}}
  server: {roles: [server, load]}
"""
TRACE = "t_s,up_bps,down_bps\n0,20000000,50000000\n0.5,5000000,50000000\n1.0,,\n"


@pytest.fixture(scope="module", autouse=True)
def own_labs(tmp_path_factory) -> Iterator[None]:
    """Labs of these tests are told apart from any other on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_RUN_DIR", str(tmp_path_factory.mktemp("labs")))
        yield
        lab.down_all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[dict]:
    """One finished campaign of two short runs, shared by the tests that only look."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "steps.csv").write_text(TRACE)
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    (folder / "three.yaml").write_text(THREE_DEVICES)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "testbed", "run", folder / "tiny.yaml"),
            *("-i", folder / "three.yaml", "--results", folder / "results", "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["verdict"]["trusted"] else 1), done.stderr
    assert not document["failure"]
    yield document
    assert lab.status() == []


def runs_of(campaign: Path) -> list[Path]:
    return sorted(path.parent for path in campaign.glob("*/plan.json"))


def measured(folder: Path) -> list[dict]:
    return [r for r in lines(folder / "queries.jsonl") if r["kind"] == "measured"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_run_is_complete_and_whole(finished) -> None:
    campaign = Path(finished["campaign"])
    assert set(finished["runs"].values()) == {"complete"}
    assert len(finished["runs"]) == 2
    folders = runs_of(campaign)
    assert len(folders) == 3  # and the profile
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["schema_version"] == 1
        for name, digest in manifest["checksums"].items():
            assert sha256_file(folder / name) == digest
        assert {"plan.json", "queries.jsonl", "link.jsonl", "server.jsonl", "clock.json"} <= set(
            manifest["checksums"]
        )
        for state in ("before", "shaped", "after"):
            assert (folder / f"qdisc.{state}.json").exists()
        assert len(list(folder.glob("environment.*.json"))) == 6


def test_every_query_has_a_record_that_adds_up(finished) -> None:
    for folder in runs_of(Path(finished["campaign"])):
        records = lines(folder / "queries.jsonl")
        for device in {r["device"] for r in records}:
            numbers = [r["query"] for r in records if r["device"] == device]
            assert numbers == list(range(len(numbers)))
        assert measured(folder)
        for record in measured(folder):
            assert record["status"] == "ok"
            parts = ("decide_ns", "head_ns", "encode_ns", "server_wait_ns", "decode_ns", "tail_ns")
            assert sum(record[p] for p in parts) + record["network_ns"] == record["e2e_ns"]
            assert record["network_ns"] >= 0
            assert (record["bytes_up"] > 0) == (record["split"] != "local")


def test_split_equals_whole_was_proven_over_the_wire(finished) -> None:
    devices = json.loads((Path(finished["campaign"]) / "verify.json").read_text())["devices"]
    assert set(devices) == {"device1", "device2", "device3"}
    for splits in devices.values():
        assert {"offload", "2", "5"} <= set(splits)
        for found in splits.values():
            assert found["digest"]
            assert found["equal"]
            assert found["top1"]


def test_every_device_has_its_own_policy(finished) -> None:
    campaign = Path(finished["campaign"])
    (folder,) = campaign.glob("fast.*")
    chosen = {(r["device"], r["split"]) for r in measured(folder)}
    assert chosen == {("device1", "5"), ("device2", "local"), ("device3", "offload")}
    (folder,) = campaign.glob("steps.*")
    assert {r["device"] for r in measured(folder)} == {"device1", "device2", "device3"}
    profiles = json.loads((campaign / "profile.json").read_text())["devices"]
    assert {host: p["measured_on"] for host, p in profiles.items()} == {
        "device1": "device1",
        "device2": "device1",
        "device3": "device1",
    }
    summary = json.loads(Path(finished["report"]).with_name("summary.json").read_text())
    policies = {
        (row["device"], row["own_policy"])
        for row in summary["tables"]["fleet_devices"]
        if row["policy"] == "fleet:mixed"
    }
    assert policies == {("device1", "static:5"), ("device2", "local"), ("device3", "offload")}
    assert main(["verify", str(campaign)]) == 0


def test_the_link_followed_the_trace(finished) -> None:
    for folder in runs_of(Path(finished["campaign"])):
        plan = json.loads((folder / "plan.json").read_text())
        changes = [r for r in lines(folder / "link.jsonl") if "rate_bps" in r]
        assert set(plan["schedules"]) == {"uplink", "downlink", "uplink-far", "downlink-far"}
        for direction, schedule in plan["schedules"].items():
            wanted = {rate for _, rate in schedule["changes"]}
            assert {r["rate_bps"] for r in changes if r["direction"] == direction} == wanted


def test_each_router_has_a_link_of_its_own(finished) -> None:
    campaign = Path(finished["campaign"])
    (folder,) = campaign.glob("fast.*")
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["behind"] == {"device1": "", "device2": "", "device3": "-far"}
    # What 12 kB less a bucket of 5 MTUs need at 2 Mbit/s.
    slow_ns = [r["network_ns"] for r in measured(folder) if r["device"] == "device3"]
    assert median(slow_ns) > 1e9 * 8 * (12_288 - 7_500) / 2e6
    proofs = json.loads((campaign / "link_verification.json").read_text())["routers"]
    assert set(proofs) == {"near", "far"}
    summary = json.loads(Path(finished["report"]).with_name("summary.json").read_text())
    assert {(row["link"], row["direction"]) for row in summary["tables"]["link"]} == {
        (link, direction) for link in ("fast", "steps") for direction in plan["schedules"]
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    sent = sum(r["bytes_up"] for r in measured(folder) if r["device"] == "device3")
    assert manifest["link-far"]["counters"]["uplink-far"]["bytes"] > sent


def test_a_slower_link_takes_the_time_that_serialisation_says(finished) -> None:
    profile = json.loads((Path(finished["campaign"]) / "profile.json").read_text())
    offload = profile["candidates"]["offload"]
    ip_bits = 8 * (offload["bytes_up"] + 52 * -(-offload["bytes_up"] // 1448) - 7500)
    floor_ns = ip_bits * 1e9 / profile["rate_bps"]
    assert floor_ns <= offload["network_ns"] * 1.02
    assert profile["base_network_ns"] >= 0


def test_load_was_there_when_asked_for(finished) -> None:
    for folder in runs_of(Path(finished["campaign"])):
        plan = json.loads((folder / "plan.json").read_text())
        load = lines(folder / "load.jsonl")
        assert any(r["queries"] > 0 for r in load) == (plan["load"] == "busy")


def test_the_report_has_the_answer_and_its_numbers(finished) -> None:
    report = Path(finished["report"])
    assert report.read_text().startswith("<!DOCTYPE html>") or "<html" in report.read_text()[:300]
    summary = json.loads((report.parent / "summary.json").read_text())
    assert summary["schema_version"] == 1
    assert list((report.parent / "figures").glob("*.pdf"))
    assert list((report.parent / "tables").glob("*.csv"))


def test_the_link_is_as_it_was_found(finished) -> None:
    campaign = Path(finished["campaign"])
    before = json.loads((campaign / "qdisc.before.json").read_text())
    after = json.loads((campaign / "qdisc.after.json").read_text())
    assert before == after
