"""The load role: synthetic load on the server, following its levels and logging what came of it."""

from __future__ import annotations

import os
from time import monotonic_ns
from typing import Protocol

from testbed.control import Control, Message
from testbed.errors import TestbedError, UserError
from testbed.model.table import OFFLOAD, SplitTable
from testbed.policy.clairvoyant import Steps
from testbed.worker.client import Endpoint
from testbed.worker.encoding import Encoder
from testbed.worker.host import greeting
from testbed.worker.inputs import seeded_inputs
from testbed.worker.layout import Layout, layouts
from testbed.worker.load_burn import BurnLoad
from testbed.worker.load_queries import InferenceLoad
from testbed.worker.wire import WireError

_TICK_NS = 100_000_000
# An overloaded server may take its time; a client waits no longer.
_TIMEOUT_NS = 30_000_000_000


class Generator(Protocol):
    """What makes the load; ``capacity`` is how many of its resource there are."""

    capacity: int

    def set_level(self, level: float, target_ns: int) -> None:
        """Hold a level; ``target_ns`` is what the interval before should have held."""

    def take(self) -> tuple[int, int]:
        """(queries, nanoseconds busy) since the last call."""

    def close(self) -> None:
        """End it."""


class LoadRole:
    """One load a run, made at its start so that its beginning is the run's."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._query: tuple[Layout, memoryview, int] | None = None
        self._generator: Generator | None = None
        self._steps = Steps(((0, 0.0),), None)
        self._counts_clients = False

    def hello(self) -> Message:
        """Versions and facts sent with the greeting."""
        return greeting()

    def handle(self, message: Message) -> None:
        """Act on ``setup``, ``start`` or ``go``."""
        if message["type"] == "setup":
            self._setup(message)
        elif message["type"] == "start":
            self._start(message)
        elif message["type"] == "go":
            self._go()
        else:
            raise UserError(f"load: unknown message {message['type']!r}")

    def close(self) -> None:
        """End the load of a run in progress."""
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.close()

    def _setup(self, message: Message) -> None:
        self.close()
        table, batch = SplitTable.from_json(message["table"]), message["batch"]
        known = layouts(table, (OFFLOAD,), message["encoding"], batch)
        (pixels,) = seeded_inputs(table, batch=batch, seed=0, count=1)
        payload = Encoder(known).encode(OFFLOAD, pixels)
        self._query = (known[OFFLOAD], payload, batch * table.outputs)
        self._control.send("ready")

    def _start(self, message: Message) -> None:
        if self._query is None:
            raise UserError("load: start before setup; send setup first")
        self.close()
        steps = tuple((int(t_ns), float(level)) for t_ns, level in message["steps"])
        self._steps = Steps(steps, message["period_ns"])
        self._counts_clients = message["clients"]
        if message["load"] == "inference":
            self._generator = self._queries(message, max(level for _, level in steps))
        else:
            self._generator = BurnLoad(message["load"], message["threads"])
        self._control.send("started")

    def _queries(self, message: Message, most: float) -> InferenceLoad:
        assert self._query is not None
        layout, payload, outputs = self._query
        server = message["server"]
        address, port = server["address"], server["port"]
        endpoint = Endpoint(address, port, server["token"], _TIMEOUT_NS, None)
        clients = round(most) if self._counts_clients else None
        try:
            return InferenceLoad(
                endpoint, outputs, layout, payload, clients=clients, seed=message["seed"]
            )
        except (WireError, OSError) as error:
            raise TestbedError(f"load: server {address}:{port}: {error}") from error

    def _go(self) -> None:
        generator = self._generator
        if generator is None:
            raise UserError("load: go before start; send start first")
        try:
            total = self._follow(generator)
        finally:  # what is left of a load that failed must not be the next run's
            self.close()
        self._control.send("done", queries=total[0], cpu_ns=total[1])

    def _follow(self, generator: Generator) -> list[int]:
        """Hold the levels until the run is stopped; queries, and nanoseconds busy, in all."""
        generator.take()  # the calibration's
        begun_ns = before_ns = monotonic_ns()
        total = [0, 0]
        level, _ = self._steps.at(0)
        generator.set_level(level, 0)
        while not self._control.stopping.is_set():
            _, change_ns = self._steps.at(before_ns - begun_ns)
            end_ns = before_ns + _TICK_NS
            if change_ns is not None:
                end_ns = min(end_ns, begun_ns + change_ns)
            self._control.stopping.wait(max(0, end_ns - monotonic_ns()) / 1e9)
            now_ns = monotonic_ns()
            queries, busy_ns = generator.take()
            total = [total[0] + queries, total[1] + busy_ns]
            self._report(generator, level, now_ns, now_ns - before_ns, queries, busy_ns)
            target_ns = round(level * (now_ns - before_ns))
            level, _ = self._steps.at(now_ns - begun_ns)
            generator.set_level(level, target_ns)
            before_ns = now_ns
        return total

    def _report(
        self,
        generator: Generator,
        level: float,
        now_ns: int,
        interval_ns: int,
        queries: int,
        busy_ns: int,
    ) -> None:
        self._control.record(
            "load",
            {
                "t_ns": now_ns,
                "interval_ns": interval_ns,
                "clients": round(level) if self._counts_clients else 0,
                "queries": queries,
                # Of all the host's processors.
                "busy_share": busy_ns / (interval_ns * (os.cpu_count() or 1)),
                "target": None if self._counts_clients else level,
                # Of the executor, or of the processors asked for.
                "achieved": busy_ns / (interval_ns * generator.capacity),
            },
        )
