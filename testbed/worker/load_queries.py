"""Load on the server's executor: clients that ask for the whole model, as a device would."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic_ns

from testbed.errors import TestbedError
from testbed.worker.client import Connection, Endpoint
from testbed.worker.layout import Layout
from testbed.worker.pacing import Pacing
from testbed.worker.service import FIRST_LOAD_QUERY
from testbed.worker.wire import WireError

# Clients that share one Poisson process: more than ever wait at a level the server can bear.
_POISSON_CLIENTS = 16
_CALIBRATION_QUERIES = 5


class InferenceLoad:
    """Clients on connections of their own, in a closed loop or as one Poisson process.

    They queue for the executor with the measured device. Arrivals that fell due while every client
    waited for its reply are made up for, so that load does not yield to the queue.
    """

    capacity = 1  # one executor

    def __init__(
        self,
        endpoint: Endpoint,
        outputs: int,
        layout: Layout,
        payload: memoryview,
        *,
        clients: int | None,
        seed: int,
    ) -> None:
        self._query = (layout, payload)
        self._closed_loop = clients is not None
        self._wake = threading.Condition()
        self._turn = threading.Lock()  # taken before ``_wake``, by the client that waits
        self._rng = random.Random(seed)
        self._due_ns = 0  # of the arrival before, or the level's beginning
        self._over = False
        self._level = 0.0
        self._queries = self._busy_ns = 0
        self._fault: str | None = None
        count = _POISSON_CLIENTS if clients is None else clients
        self._connections = [Connection(endpoint, outputs) for _ in range(max(1, count))]
        self._pacing = Pacing(self._calibrate(self._connections[0]))
        work = self._loop if self._closed_loop else self._arrive
        self._threads = [
            threading.Thread(target=self._guard, args=(work, i))
            for i in range(len(self._connections))
        ]
        for thread in self._threads:
            thread.start()

    def set_level(self, level: float, target_ns: int) -> None:
        """Hold a number of clients or a share of time.

        ``target_ns`` is what the interval before should have held.
        """
        with self._wake:
            changed, self._level = level != self._level, level
            self._pacing.hold(level, target_ns)
            if changed:
                self._due_ns = monotonic_ns()
                self._wake.notify_all()

    def take(self) -> tuple[int, int]:
        """(queries, executor's nanoseconds) since the last call; TestbedError for a lost client."""
        with self._wake:
            if self._fault:
                raise TestbedError(f"load: a client lost the server: {self._fault}")
            taken = (self._queries, self._busy_ns)
            self._queries = self._busy_ns = 0
        return taken

    def close(self) -> None:
        """End every client, whatever it waits for."""
        with self._wake:
            self._over = True
            self._wake.notify_all()
        for connection in self._connections:
            connection.close()
        for thread in self._threads:
            thread.join()

    def _calibrate(self, connection: Connection) -> float:
        layout, payload = self._query
        services = []
        for n in range(_CALIBRATION_QUERIES):
            times = connection.query(FIRST_LOAD_QUERY + n, layout, payload).times
            services.append(times.decode_ns + times.tail_ns)
        return float(sorted(services)[len(services) // 2])

    def _guard(self, work: Callable[[int], None], index: int) -> None:
        try:
            work(index)
        except (WireError, OSError) as error:
            with self._wake:
                if not self._over:
                    self._fault = f"{type(error).__name__}: {error}"

    def _loop(self, index: int) -> None:
        """Ask again at once, while the level counts this client."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._over or index < self._level)
                if self._over:
                    return
            self._ask(index)

    def _arrive(self, index: int) -> None:
        """Ask at every arrival that this client takes."""
        while self._next_arrival():
            self._ask(index)

    def _next_arrival(self) -> bool:
        """Wait for the process's next arrival; False once it is over.

        One client waits at a time and the others behind it, so that a gap is drawn when the one
        before has ended and knows the newest rate. With all clients busy, arrivals stay due.
        """
        with self._turn, self._wake:
            while True:
                self._wake.wait_for(lambda: self._over or self._pacing.interval_ns is not None)
                interval_ns, level = self._pacing.interval_ns, self._level
                if self._over or interval_ns is None:
                    return False
                due_ns = self._due_ns + round(self._rng.expovariate(1 / interval_ns))
                changed = partial(self._changed, level)
                # Memoryless: under a new level the gap begins anew.
                if not self._wake.wait_for(changed, max(0, due_ns - monotonic_ns()) / 1e9):
                    self._due_ns = due_ns
                    return True

    def _changed(self, level: float) -> bool:
        return self._over or level != self._level

    def _ask(self, index: int) -> None:
        layout, payload = self._query
        with self._wake:
            taken_for_ns = self._pacing.asked()
        times = self._connections[index].query(FIRST_LOAD_QUERY, layout, payload).times
        service_ns = times.decode_ns + times.tail_ns
        with self._wake:
            self._queries += 1
            self._busy_ns += service_ns
            self._pacing.answered(taken_for_ns, service_ns)
