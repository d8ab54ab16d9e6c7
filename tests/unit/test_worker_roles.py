"""Real device, server and load roles as processes over loopback, with torch and nothing else.

Contract 8: what an orchestrator needs and a worker must not is blocked from import in them all.
"""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.model.archive import save_archive
from testbed.model.engine import Engine
from testbed.model.export import export_program
from testbed.model.splits import split_table
from testbed.model.table import SplitTable
from testbed.records import sha256_file

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = "torchvision timm numpy yaml pydantic paramiko pyroute2 pandas rich scipy matplotlib"
# Absent, as on a host that never had them: found nowhere, rather than failing to load.
SITE = f"""
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED.split()!r}:
            return None
        return PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
TIMEOUT_NS = 2 * 10**9
MEASURED_NS = 400_000_000
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


class Block(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + 1


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.features = nn.Sequential(Block(4, 2), Block(4, 2))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))


class Role:
    """A role process on pipes, with its records apart from its answers."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "testbed.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self.answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.records: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        with self.process.stdout as stream:
            for line in stream:
                message = json.loads(line)
                record = message["type"] == "record"
                (self.records if record else self.answers).put(message)
        self.answers.put(None)

    def send(self, kind: str, **fields: Any) -> None:
        self.process.stdin.write(json.dumps({"type": kind, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def wait(self, kind: str) -> dict[str, Any]:
        answer = self.answers.get(timeout=60)
        assert answer is not None, f"the role ended where {kind} was expected"
        assert answer["type"] == kind, answer
        return answer

    def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        self.send(kind, **fields)
        return self.wait(answer)

    def taken(self, file: str) -> list[dict[str, Any]]:
        found = []
        while not self.records.empty():
            message = self.records.get()
            assert message["file"] == file
            found.append(message["record"])
        return found

    def close(self) -> int:
        if not self.process.stdin.closed:
            self.process.stdin.close()
        status = self.process.wait(10)
        self.reader.join()
        return status


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(3)
    network = Tiny().eval()
    program, _ = export_program(network, 64)
    path = tmp_path_factory.mktemp("model") / "tiny.archive"
    sha256 = save_archive(program, path)
    table = split_table(network, program, "tiny", 64)
    return {
        "archive": str(path),
        "archive_sha256": sha256,
        "table": table.to_json(),
        "candidates": list(table.candidates("natural")),
        "encoding": {"input": "uint8", "features": "float32"},
        "batch": 2,
        "threads": 1,
        "accelerator": "cpu",
    }


def set_up_server(role: Role, setup: dict[str, Any]) -> dict[str, Any]:
    return role.ask("setup", "ready", **setup, data={"address": "127.0.0.1", "port": 0})


def set_up_device(role: Role, setup: dict[str, Any]) -> dict[str, Any]:
    return role.ask("setup", "ready", **setup, input_seed=1, inputs=3)


@pytest.fixture(scope="module")
def roles(environment: dict[str, str], setup: dict[str, Any]) -> Iterator[tuple[Role, Role, int]]:
    device, server = Role("device", environment), Role("server", environment)
    try:
        for role in (device, server):
            hello = role.wait("hello")
            assert hello["torch"] == torch.__version__
            assert hello["cpu_count"] >= 1
        readies = [set_up_device(device, setup), set_up_server(server, setup)]
        for ready in readies:
            assert ready["archive_sha256"] == setup["archive_sha256"]
            assert ready["check"] == dict.fromkeys(setup["candidates"], True)
        yield device, server, readies[1]["port"]
    finally:
        assert [role.close() for role in (device, server)] == [0, 0]


def begin(server: Role, port: int, run_id: str) -> dict[str, Any]:
    token = secrets.token_hex(8)
    server.ask("start", "started", run_id=run_id, token=token)
    server.send("go")
    return {"address": "127.0.0.1", "port": port, "token": token}


def end(server: Role) -> dict[str, Any]:
    return server.ask("stop", "done")


def start_message(endpoint: dict[str, Any] | None, policy: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "device": "d",
        "policy": policy,
        "seed": 5,
        "server": endpoint,
        "profile": None,
        "warmup_queries": 2,
        "duration_ns": MEASURED_NS,
        "probe": {"bytes": 40_000, "interval_ns": 50_000_000, "budget_bytes": 120_000},
        "timeout_ns": TIMEOUT_NS,
        "congestion_control": None,
    }


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


LOAD_SETUP = ("archive", "archive_sha256", "table", "batch", "threads", "encoding")


@pytest.fixture(scope="module")
def load(environment: dict[str, str], setup: dict[str, Any]) -> Iterator[Role]:
    role = Role("load", environment)
    role.wait("hello")
    role.ask("setup", "ready", **{key: setup[key] for key in LOAD_SETUP})
    yield role
    assert role.close() == 0


def load_start(steps: list[list[float]], **changed: Any) -> dict[str, Any]:
    return {
        "run_id": "r", "load": "inference", "arrivals": "closed", "threads": 1, "clients": True,
        "steps": steps, "period_ns": None, "seed": 1, **changed,
    }  # fmt: skip


def test_load_queues_with_the_device(roles: tuple[Role, Role, int], load: Role) -> None:
    device, server, port = roles
    endpoint = begin(server, port, "loaded")
    message = start_message(endpoint, {"name": "offload"})
    device.ask("start", "started", **{**message, "duration_ns": 3600 * 10**9})
    load.ask("start", "started", server=endpoint, **load_start([[0, 0], [150_000_000, 3]]))
    load.send("go")
    device.send("go")
    seen = [load.records.get(timeout=10)["record"] for _ in range(5)]
    assert device.ask("stop", "done")["queries"] > 0
    done = load.ask("stop", "done")
    end(server)
    assert [record["clients"] for record in seen] == [0, 0, 3, 3, 3]
    assert [bool(record["queries"]) for record in seen] == [False, False, True, True, True]
    assert all(record["achieved"] > 0 for record in seen[2:])
    assert done["queries"] == sum(record["queries"] for record in seen + load.taken("load"))
    logged = [e["query"] for e in server.taken("server") if e["event"] == "query"]
    assert len(logged) == len(device.taken("queries"))


def test_poisson_load_and_a_server_that_is_gone(
    environment: dict[str, str], setup: dict[str, Any], load: Role
) -> None:
    server = Role("server", environment)
    server.wait("hello")
    endpoint = begin(server, set_up_server(server, setup)["port"], "poisson")
    start = load_start([[0, 0.5]], arrivals="poisson", clients=False)
    load.ask("start", "started", server=endpoint, **start)
    load.send("go")
    seen = [load.records.get(timeout=10)["record"] for _ in range(4)]
    assert {record["target"] for record in seen} == {0.5}
    assert sum(record["queries"] for record in seen) > 0
    server.process.kill()
    server.close()
    assert "lost the server" in load.wait("error")["message"]
    load.taken("load")


@pytest.mark.parametrize("kind", ["cpu", "memory"])
def test_burning_follows_its_level_and_ends(load: Role, kind: str) -> None:
    start = load_start([[0, 0], [100_000_000, 0.5]], load=kind, clients=False, threads=2)
    load.ask("start", "started", server=None, **start)
    children = Path(f"/proc/{load.process.pid}/task/{load.process.pid}/children")
    pids = children.read_text().split()
    assert len(pids) == 2
    load.send("go")
    seen = [load.records.get(timeout=10)["record"] for _ in range(4)]
    assert load.ask("stop", "done")["cpu_ns"] > 0
    assert [record["target"] for record in seen] == [0, 0.5, 0.5, 0.5]
    assert seen[0]["achieved"] == 0
    assert 0 < max(record["achieved"] for record in seen) <= 1.5
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    load.taken("load")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_gpu_load_is_refused_without_one(load: Role) -> None:
    start = load_start([[0, 0.5]], load="gpu", clients=False)
    error = load.ask("start", "error", server=None, **start)
    assert error["user"]
    assert "no CUDA device" in error["message"]


def test_unknown_role_is_refused(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "testbed.worker", "nonesuch"]
    finished = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("usage:")
