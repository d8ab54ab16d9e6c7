"""The load role: closed-loop clients of the same model, stepping along a load trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic_ns
from typing import IO, Any

from testbed.control import Control, Message
from testbed.errors import TestbedError, UserError

_REPORT_NS = 1_000_000_000
_EXIT_TIMEOUT_S = 5.0


class Client:
    """One load client: a process of its own that speaks the roles' protocol on its pipes.

    It ends with its stdin, so it cannot outlive this process.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testbed.worker", "load-client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self._lock = threading.Lock()
        self._queries = self._cpu_ns = 0
        self._active = False
        self._counter = threading.Thread(target=self._count, name=f"client {self.pid}")

    def set_up(self, message: Message) -> None:
        """Have it load the model; returns at once, :meth:`await_ready` waits."""
        self._send(message)

    def await_ready(self) -> None:
        """Wait until it is loaded and idle; raises TestbedError when it is not to be."""
        for answer in self._answers():
            if answer["type"] == "error":
                raise TestbedError(f"load client {self.pid}: {answer['message']}")
            if answer["type"] == "ready":
                self._counter.start()
                return
        raise TestbedError(f"load client {self.pid}: ended before it was ready; see the log")

    def activate(self, active: bool) -> None:
        """Begin or end its closed loop."""
        if active == self._active:
            return
        self._active = active
        for kind in ("start", "go") if active else ("stop",):
            self._send({"type": kind})

    def take(self) -> tuple[int, int]:
        """(queries, processor nanoseconds) since the last call."""
        with self._lock:
            taken = (self._queries, self._cpu_ns)
            self._queries = self._cpu_ns = 0
        return taken

    def close(self) -> None:
        """End its stdin and wait; what does not end in time is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._counter.is_alive():
            self._counter.join()
        self._process.stdout.close()

    def _send(self, message: Message) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(message).encode() + b"\n")
            stream.flush()
        except OSError as error:
            raise TestbedError(
                f"load client {self.pid}: ended unasked, exit status {self._process.poll()}"
            ) from error

    def _answers(self) -> Iterator[dict[str, Any]]:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        for line in stream:
            yield json.loads(line)

    def _count(self) -> None:
        for answer in self._answers():
            if answer["type"] == "record":
                with self._lock:
                    self._queries += 1
                    self._cpu_ns += answer["record"]["cpu_ns"]


def clients_at(steps: list[list[int]], period_ns: int | None, t_ns: int) -> tuple[int, int | None]:
    """(clients at ``t_ns``, time of the next step or None); steps are ``[t_ns, clients]``.

    With a period the steps repeat; without, the last one holds.
    """
    turn, offset_ns = divmod(t_ns, period_ns) if period_ns else (0, t_ns)
    begun_ns = turn * (period_ns or 0)
    clients = [count for t, count in steps if t <= offset_ns][-1]
    later = [begun_ns + t for t, _ in steps if t > offset_ns]
    return clients, min(later, default=begun_ns + period_ns if period_ns else None)


class LoadRole:
    """Keeps its clients loaded and idle for the campaign; a run steps how many are active."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._clients: list[Client] = []
        self._steps: list[list[int]] = []
        self._period_ns: int | None = None

    def hello(self) -> Message:
        """Facts sent with the greeting; the clients are the ones that load torch."""
        return {"cpu_count": os.cpu_count()}

    def handle(self, message: Message) -> None:
        """Act on ``setup``, ``start`` or ``go``."""
        if message["type"] == "setup":
            self._setup(message)
        elif message["type"] == "start":
            self._steps, self._period_ns = message["steps"], message["period_ns"]
            self._control.send("started")
        elif message["type"] == "go":
            self._go()
        else:
            raise UserError(f"load: unknown message {message['type']!r}")

    def close(self) -> None:
        """End every client."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    def _setup(self, message: Message) -> None:
        self.close()
        self._clients = [Client() for _ in range(message["max_clients"])]
        for client in self._clients:
            client.set_up(message)
        for client in self._clients:
            client.await_ready()
        self._control.send("ready", pids=[client.pid for client in self._clients])

    def _go(self) -> None:
        if not self._steps:
            raise UserError("load: go before start; send start first")
        for client in self._clients:
            client.take()  # what was still on its way when the run before ended
        begun_ns = monotonic_ns()
        total = [0, 0]
        try:
            while not self._control.stopping.is_set():
                queries, cpu_ns = self._interval(begun_ns)
                total = [total[0] + queries, total[1] + cpu_ns]
        finally:
            self._activate(0)
        self._control.send("done", queries=total[0], cpu_ns=total[1])

    def _interval(self, begun_ns: int) -> tuple[int, int]:
        """Hold one number of clients until the next step, report or stop, and log it."""
        start_ns = monotonic_ns()
        clients, step_ns = clients_at(self._steps, self._period_ns, start_ns - begun_ns)
        self._activate(clients)
        end_ns = start_ns + _REPORT_NS
        if step_ns is not None:
            end_ns = min(end_ns, begun_ns + step_ns)
        self._control.stopping.wait(max(0, end_ns - monotonic_ns()) / 1e9)
        now_ns = monotonic_ns()
        taken = [client.take() for client in self._clients]
        queries = sum(count for count, _ in taken)
        cpu_ns = sum(used_ns for _, used_ns in taken)
        self._control.record(
            "load",
            {
                "t_ns": now_ns,
                "interval_ns": now_ns - start_ns,
                "clients": clients,
                "queries": queries,
                # Of all the host's processors.
                "busy_share": cpu_ns / ((now_ns - start_ns) * (os.cpu_count() or 1)),
            },
        )
        return queries, cpu_ns

    def _activate(self, clients: int) -> None:
        for index, client in enumerate(self._clients):
            client.activate(index < clients)
