"""The orchestrator's end of a role, over a channel that is a pair of sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.config import Host
from testbed.hosts import clock
from testbed.hosts.clock import measure_offset
from testbed.hosts.role import RoleProcess


class Channel:
    """As much of paramiko's as a role process uses; ``far`` is the role."""

    exit_status = 0

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.sendall = self.near.sendall

    def recv(self, size: int) -> bytes:
        try:
            return self.near.recv(size)
        except ConnectionResetError:  # closed with what was sent unread: paramiko says the end
            return b""

    def recv_stderr(self, size: int) -> bytes:
        return b""

    def recv_exit_status(self) -> int:
        return self.exit_status

    def shutdown_write(self) -> None:
        self.far.close()

    def close(self) -> None:
        self.near.close()

    def say(self, kind: str, attempt: int | None = None, **fields: Any) -> None:
        message = {"type": kind, "attempt": attempt, **fields}
        self.far.sendall(json.dumps(message).encode() + b"\n")


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def kept() -> list[dict[str, Any]]:
    """Records that reached the run's folder."""
    return []


@pytest.fixture
def role(channel: Channel, kept: list[dict[str, Any]], tmp_path: Path) -> Iterator[RoleProcess]:
    host = Host.model_validate({"roles": ["device"], "address": "127.0.0.1"})
    connection: Any = SimpleNamespace(name="pi", host=host, open=lambda argv: channel)
    channel.say("hello", protocol=1, pid=1)
    log = tmp_path / "role.log"
    with RoleProcess.start(
        connection, "device", "/code", log=log, on_record=lambda *record: kept.append(record[2])
    ) as started:
        yield started


def test_what_a_try_before_still_said_is_no_answer_to_this_one(role, channel, kept) -> None:
    role.send({"type": "start", "run_id": "r"})
    started = json.loads(channel.far.recv(1000).splitlines()[-1])
    assert started == {"type": "start", "run_id": "r", "attempt": 1}
    channel.say("started", 1)
    role.wait("started", 5)
    # Nobody waited any longer for these; the same run is tried again.
    channel.say("done", 1, queries=1)
    role.send({"type": "start", "run_id": "r"})
    channel.say("record", 1, file="queries", record={"query": 7})
    channel.say("done", 1, queries=1)
    channel.say("record", 2, file="queries", record={"query": 0})  # of the warm-up
    channel.say("started", 2)
    channel.say("done", 2, queries=2)
    role.wait("started", 5)
    assert role.wait("done", 5)["queries"] == 2
    assert kept == [{"query": 0}]


def test_a_clock_answer_that_came_too_late_is_not_taken_for_another(role, channel) -> None:
    channel.say("clock", n=0, t_ns=-(10**15))  # to a measurement that gave up waiting

    def answer(message: dict[str, Any]) -> None:
        channel.say("clock", n=message["n"], t_ns=clock.time.monotonic_ns())

    role.send = answer
    offset = measure_offset(role)
    assert abs(offset.offset_ns) <= offset.bound_ns
    assert offset.bound_ns > 0
