"""The load role as a process over loopback: queries, and threads that burn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.role_process import (
    Role,
    begin,
    end,
    set_up_server,
    start_message,
)

LOAD_SETUP = ("table", "batch", "encoding")


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
