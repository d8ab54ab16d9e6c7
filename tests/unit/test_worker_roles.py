"""Real device, server and load roles as processes over loopback, with torch and nothing else.

Contract 8: what an orchestrator needs and a worker must not is blocked from import in them all.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from testbed.model.engine import Engine
from testbed.model.table import SplitTable
from testbed.records import sha256_file
from tests.unit.role_process import (
    MEASURED_NS,
    ROOT,
    Role,
    begin,
    end,
    set_up_device,
    set_up_server,
    start_message,
)

KEYS = [
    *("run_id", "device", "query", "kind", "batch", "policy", "split", "encoding"),
    *("t_due_ns", "t_start_ns", "decide_ns", "head_ns", "encode_ns", "send_ns", "uplink_ns"),
    *("server_wait_ns", "decode_ns", "tail_ns", "reply_ns", "e2e_ns", "bytes_up", "bytes_down"),
    *(
        "rate_est_bps",
        "load_est",
        "wait_est_ns",
        "predicted_ns",
        "network_ns",
        "span_bytes",
        "span_ns",
    ),
    *("steal_ticks", "status", "correct", "late"),
]


def check_records(records: list[dict[str, Any]], batch: int) -> None:
    assert [record["query"] for record in records] == list(range(len(records)))
    for record in records:
        assert list(record) == KEYS
        work = record["decide_ns"] + record["head_ns"] + record["encode_ns"]
        server = record["server_wait_ns"] + record["decode_ns"] + record["tail_ns"]
        assert record["network_ns"] == record["e2e_ns"] - work - server
        assert record["network_ns"] >= 0
        assert min(v for k, v in record.items() if k.endswith("_ns") and v is not None) >= 0
        if record["split"] == "local":
            assert (record["network_ns"], record["bytes_up"], record["encoding"]) == (0, 0, "")
        elif record["status"] == "ok":
            assert record["server_wait_ns"] > 0
            assert record["bytes_down"] > batch * 10 * 4
            assert record["send_ns"] <= record["network_ns"] + server


def test_verify_over_the_wire(roles: tuple[Role, Role, int], setup: dict[str, Any]) -> None:
    device, server, port = roles
    endpoint = begin(server, port, "verify")
    found = device.ask("verify", "verified", server=endpoint, congestion_control=None)["splits"]
    assert end(server)["queries"] == len(setup["candidates"]) - 1
    exact = {"digest": True, "equal": True, "max_abs": 0.0, "mean_abs": 0.0}
    exact |= {"top1": True, "top1_share": 1.0, "images": setup["batch"]}
    assert all(result.pop("largest") > 0 for result in found.values())
    assert found == {split: exact for split in setup["candidates"] if split != "local"}


def test_cycle_then_dynamic(roles: tuple[Role, Role, int], setup: dict[str, Any]) -> None:
    device, server, port = roles
    server.taken("server")
    endpoint = begin(server, port, "cycle")
    message = start_message(endpoint, {"name": "cycle", "queries": 3})
    device.ask("start", "started", **{**message, "duration_ns": 20 * 10**9})
    done = device.ask("go", "done")
    assert end(server)["queries"] > 0
    records = device.taken("queries")
    check_records(records, setup["batch"])
    counted = [r["split"] for r in records if r["kind"] == "measured"]
    assert sorted(counted) == sorted(4 * setup["candidates"])
    assert done["queries"] == len(counted)
    assert all(r["status"] == "ok" for r in records)
    assert {r["split"] for r in records[:4]} == set(setup["candidates"])
    events = [event["event"] for event in server.taken("server")]
    assert events[0] == "connected"
    assert events.count("query") == sum(r["bytes_up"] > 0 for r in records)

    endpoint = begin(server, port, "dynamic")
    profile = {"base_network_ns": 10**5, "candidates": {}}
    for split in setup["candidates"]:
        (row, *_) = [r for r in records if r["split"] == split and r["kind"] == "measured"]
        # A head of ten seconds keeps the policy from staying local.
        slow = {"head_ns": 10**10} if split == "local" else {}
        profile["candidates"][split] = {**row, **slow}
    message = start_message(endpoint, {"name": "dynamic"})
    device.ask("start", "started", **{**message, "profile": profile})
    done = device.ask("go", "done")
    end(server)
    records = device.taken("queries")
    check_records(records, setup["batch"])
    probes = [r for r in records if r["kind"] == "probe"]
    assert 1 <= len(probes) <= 3
    assert probes[0]["bytes_up"] > 40_000
    assert done["t1_ns"] - done["t0_ns"] >= MEASURED_NS
    assert done["faults"] >= 0
    assert done["cpu_ns"] > 0
    assert {r["policy"] for r in records} == {"dynamic"}
    bare = subprocess.run(
        [sys.executable, "-c", "import torch\nprint(open('/proc/self/status').read())"],
        capture_output=True,
        text=True,
        check=True,
    )
    torch_kb = int(bare.stdout.partition("VmHWM:")[2].split()[0])
    assert 0 < done["peak_rss_bytes"] < torch_kb * 1024 + 64 * 2**20


def test_labelled_images_are_judged_in_every_record(
    roles: tuple[Role, Role, int], setup: dict[str, Any], tmp_path: Path
) -> None:
    device, server, port = roles
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    table = SplitTable.from_json(setup["table"])
    engine = Engine(Path(setup["archive"]), setup["archive_sha256"], table, (), batch=2)
    right = torch.cat([engine.whole(x) for x in images.view(2, 2, 3, 64, 64)]).argmax(1)
    pack = tmp_path / "inputs.pack"
    # Of the first batch both, of the second none.
    labels = torch.cat([right[:2], (right[2:] + 1) % 10])
    torch.save({"images": images, "labels": labels}, pack)
    pictures = {"path": str(pack), "sha256": sha256_file(pack)}
    device.ask("setup", "ready", **setup, pictures=pictures)
    endpoint = begin(server, port, "labelled")
    message = start_message(endpoint, {"name": "cycle", "queries": 2})
    device.ask("start", "started", **{**message, "duration_ns": 20 * 10**9})
    device.ask("go", "done")
    end(server)
    records = device.taken("queries")
    assert {r["split"] for r in records} == set(setup["candidates"])
    assert all(r["correct"] == 2 * (r["query"] % 2 == 0) for r in records)
    set_up_device(device, setup)


def test_stop_ends_a_run_and_local_needs_no_server(roles: tuple[Role, Role, int]) -> None:
    device, _, _ = roles
    message = start_message(None, {"name": "local"})
    device.ask("start", "started", **{**message, "duration_ns": 3600 * 10**9})
    warm_ups = len(device.taken("queries"))
    assert warm_ups == 2
    device.send("go")
    device.records.get(timeout=10)
    assert device.ask("stop", "done")["queries"] > 0
    assert {r["split"] for r in device.taken("queries")} <= {"local"}


def test_faults_of_the_caller_are_told(roles: tuple[Role, Role, int]) -> None:
    device, server, port = roles
    endpoint = begin(server, port, "refused")
    wrong = {**endpoint, "token": "wrong"}
    error = device.ask("start", "error", **start_message(wrong, {"name": "offload"}))
    assert "127.0.0.1" in error["message"]
    assert error["traceback"] is None
    error = device.ask("start", "error", **start_message(endpoint, {"name": "static:99"}))
    assert error["user"]
    error = device.ask("start", "error", **start_message(None, {"name": "offload"}))
    assert "needs a server" in error["message"]
    other = {**start_message(endpoint, {"name": "offload"}), "congestion_control": "nonesuch"}
    assert "congestion_control" in device.ask("start", "error", **other)["message"]
    end(server)
    assert "wrong" not in json.dumps(server.taken("server"))


def test_a_set_up_that_fails_leaves_nothing_of_the_one_before(
    roles: tuple[Role, Role, int], setup: dict[str, Any]
) -> None:
    device, server, port = roles
    table = json.loads(json.dumps(setup["table"]))
    table["points"][1]["nodes"] = ["elsewhere"]
    try:
        for wrong, told in (
            ({**setup, "archive_sha256": "0" * 64}, "SHA-256 is [0-9a-f]+, expected 0+; deploy"),
            ({**setup, "table": table}, "no node 'elsewhere'; the split table is of another"),
        ):
            for role, more in (
                (device, {"input_seed": 1, "inputs": 3}),
                (server, {"data": {"address": "127.0.0.1", "port": 0}}),
            ):
                error = role.ask("setup", "error", **wrong, **more)
                assert re.search(told, error["message"])
                assert error["traceback"] is None
            error = device.ask("start", "error", **start_message(None, {"name": "local"}))
            assert "not set up" in error["message"]
            error = server.ask("start", "error", run_id="r", token="t")
            assert "start before setup" in error["message"]
    finally:
        set_up_device(device, setup)
        server.ask("setup", "ready", **setup, data={"address": "127.0.0.1", "port": port})


def test_server_killed_in_a_run(
    roles: tuple[Role, Role, int], environment: dict[str, str], setup: dict[str, Any]
) -> None:
    device, _, _ = roles
    server = Role("server", environment)
    server.wait("hello")
    port = set_up_server(server, setup)["port"]
    endpoint = begin(server, port, "killed")
    message = start_message(endpoint, {"name": "offload"})
    device.ask("start", "started", **{**message, "duration_ns": 3600 * 10**9})
    device.taken("queries")
    device.send("go")
    device.records.get(timeout=10)
    server.process.kill()
    server.close()
    seen: list[tuple[str, str]] = []
    # Nothing crosses while the link is down: the whole model runs here.
    while seen[-20:] != [("fallback", "local")] * 20:
        record = device.records.get(timeout=10)["record"]
        seen.append((record["status"], record["split"]))
    assert "failed" not in {status for status, _ in seen}
    assert ("fallback", "offload") in seen
    assert device.ask("stop", "done")["queries"] > 20
    device.taken("queries")


def test_unknown_role_is_refused(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "testbed.worker", "nonesuch"]
    finished = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("usage:")
