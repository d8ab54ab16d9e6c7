"""The roles' protocol: clocks answered at once, errors told, end of stdin ends the role."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.control import Control, serve
from testbed.errors import UserError


class Echo:
    def __init__(self, control: Control) -> None:
        self.control = control
        self.closed = False

    def hello(self):
        return {"versions": {}}

    def handle(self, message) -> None:
        if message["type"] == "fail":
            raise UserError("setup: expected a port, got none")
        if message["type"] == "bug":
            raise KeyError("x")
        self.control.send("echo", payload=message["payload"])

    def close(self) -> None:
        self.closed = True


def converse(lines: list[dict]) -> tuple[int, Echo, list[dict]]:
    """Run a role over real pipes with a whole conversation waiting on its stdin."""
    to_role, from_role = os.pipe(), os.pipe()
    with os.fdopen(to_role[1], "wb") as stdin:
        for line in lines:
            stdin.write(json.dumps(line).encode() + b"\n")
    with os.fdopen(to_role[0], "rb") as source, os.fdopen(from_role[1], "wb") as sink:
        control = Control(source, sink)
        role = Echo(control)
        status = serve("echo", control, role)
    with os.fdopen(from_role[0], "rb") as stdout:
        return status, role, [json.loads(line) for line in stdout]


def test_conversation_ends_with_stdin_and_puts_everything_back() -> None:
    status, role, told = converse([{"type": "ping", "payload": 7}])
    assert status == 0
    assert role.closed
    assert {m["type"] for m in told} == {"hello", "echo"}
    assert next(m for m in told if m["type"] == "echo")["payload"] == 7


def test_errors_are_told_and_the_role_lives_on() -> None:
    _, _, told = converse([{"type": "fail"}, {"type": "bug"}, {"type": "ping", "payload": 1}])
    user, bug = (m for m in told if m["type"] == "error")
    assert user["user"]
    assert user["message"] == "setup: expected a port, got none"
    assert user["traceback"] is None
    assert not bug["user"]
    assert "KeyError" in bug["traceback"]
    assert told[-1]["type"] == "echo"


def test_clock_is_answered_by_the_reader() -> None:
    _, _, told = converse([{"type": "clock", "n": 3}])
    (clock,) = (m for m in told if m["type"] == "clock")
    assert clock["n"] == 3
    assert clock["t_ns"] > 0


@contextmanager
def open_control() -> Iterator[tuple[Control, socket.socket, socket.socket]]:
    """A control, and the far ends of its stdin and its stdout, which sshd makes of sockets."""
    (stdin, source), (stdout, sink) = socket.socketpair(), socket.socketpair()
    with stdin, source, stdout, sink, source.makefile("rb") as read, sink.makefile("wb") as write:
        control = Control(read, write)
        yield control, stdin, stdout
        stdin.close()
        assert control.closed.wait(10)


def flood(control: Control) -> None:
    for query in range(10_000):
        control.record("queries", {"query": query, "padding": "x" * 300})


def test_nobody_who_reads_holds_a_role_no_longer_than_its_stdin() -> None:
    with open_control() as (control, stdin, _):
        flooding = threading.Thread(target=flood, args=(control,), daemon=True)
        flooding.start()
        flooding.join(0.5)
        assert flooding.is_alive()  # no room for more
        stdin.close()  # a cut cable looks like this once the silence is over
        flooding.join(10)
        assert not flooding.is_alive()


def test_messages_longer_than_a_pipe_come_whole() -> None:
    text = "x" * 300_000
    with open_control() as (control, _, stdout), stdout.makefile("rb") as read:
        sending = threading.Thread(target=control.send, args=("long",), kwargs={"text": text})
        sending.start()
        assert json.loads(read.readline())["text"] == text
        sending.join(10)


def test_a_channel_that_is_reset_is_an_orchestrator_that_is_gone() -> None:
    with open_control() as (control, _, stdout):
        threading.Timer(0.3, stdout.close).start()
        flood(control)
        assert control.stopping.is_set()


def test_a_stop_holds_until_the_next_start_is_handled() -> None:
    with open_control() as (control, stdin, _):
        for kind in ("start", "stop", "start"):
            stdin.sendall(json.dumps({"type": kind}).encode() + b"\n")
        for _ in range(2):
            control.receive(10)  # both starts, and so the stop between them, are read
        control.begin(1)
        assert control.stopping.is_set()
        control.begin(2)
        assert not control.stopping.is_set()
