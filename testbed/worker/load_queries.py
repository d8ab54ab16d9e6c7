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
from testbed.worker.service import FIRST_LOAD_QUERY
from testbed.worker.wire import WireError

# Clients that share one Poisson process: more than ever wait at a level the server can bear.
_POISSON_CLIENTS = 16
_CALIBRATION_QUERIES = 5
# Of the mean service time: the newest query's share.
_FRESH = 0.1
# The share by which the rate makes up for what the last seconds had too little or too much.
_MAKE_UP_NS = 3_000_000_000
_MAKE_UP_MOST_NS = 300_000_000
_MOST_LEVEL = 0.98


class InferenceLoad:
    """Clients on connections of their own, in a closed loop or as one Poisson process.

    They queue for the executor with the measured device. Poisson arrivals come at ``level ÷ mean
    service time``, which replies tell; what was asked for corrects it slowly. Each client keeps to
    its own arrivals even when a reply is late, so that load does not yield to the queue.
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
        self._over = False
        self._level = 0.0
        self._interval_s = 0.0  # between arrivals of one client; 0: none
        self._debt_ns = self._offered_ns = 0.0
        self._queries = self._busy_ns = 0
        self._fault: str | None = None
        count = _POISSON_CLIENTS if clients is None else clients
        self._connections = [Connection(endpoint, outputs) for _ in range(max(1, count))]
        self._service_ns = self._calibrate(self._connections[0])
        work = self._loop if self._closed_loop else self._arrive
        self._threads = [
            threading.Thread(target=self._guard, args=(work, i, random.Random(seed * 1000 + i)))
            for i in range(len(self._connections))
        ]
        for thread in self._threads:
            thread.start()

    def set_level(self, level: float, target_ns: int) -> None:
        """Hold a number of clients or a share of time.

        ``target_ns`` is what the interval before should have held.
        """
        with self._wake:
            changed = level != self._level
            self._level = level
            if self._closed_loop:
                if changed:
                    self._wake.notify_all()
                return
            # What was asked for counts, not what was done: a queue must not call for more.
            offered_ns, self._offered_ns = self._offered_ns, 0.0
            debt_ns = self._debt_ns + target_ns - offered_ns
            self._debt_ns = min(_MAKE_UP_MOST_NS, max(-_MAKE_UP_MOST_NS, debt_ns))
            wanted = min(_MOST_LEVEL, max(0.0, level + self._debt_ns / _MAKE_UP_NS))
            rate = wanted * 1e9 / self._service_ns / len(self._threads) if level else 0.0
            self._interval_s = 1 / rate if rate else 0.0
            if changed:
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

    def _guard(
        self, work: Callable[[int, random.Random], None], index: int, rng: random.Random
    ) -> None:
        try:
            work(index, rng)
        except (WireError, OSError) as error:
            with self._wake:
                if not self._over:
                    self._fault = f"{type(error).__name__}: {error}"

    def _loop(self, index: int, rng: random.Random) -> None:
        """Ask again at once, while the level counts this client."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._over or index < self._level)
                if self._over:
                    return
            self._ask(index)

    def _arrive(self, index: int, rng: random.Random) -> None:
        """Ask at times a random gap apart, whether or not the answer before came late."""
        due_ns = monotonic_ns()
        level = 0.0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._over or self._interval_s > 0)
                if self._over:
                    return
                if level != self._level:
                    level, due_ns = self._level, monotonic_ns()
                due_ns += round(rng.expovariate(1 / self._interval_s) * 1e9)
                left_s = max(0, due_ns - monotonic_ns()) / 1e9
                self._wake.wait_for(partial(self._changed, level), left_s)
                if self._changed(level):
                    continue  # memoryless: the gap begins anew under the new level
            self._ask(index)

    def _changed(self, level: float) -> bool:
        return self._over or level != self._level

    def _ask(self, index: int) -> None:
        layout, payload = self._query
        with self._wake:
            self._offered_ns += self._service_ns
        times = self._connections[index].query(FIRST_LOAD_QUERY, layout, payload).times
        service_ns = times.decode_ns + times.tail_ns
        with self._wake:
            self._queries += 1
            self._busy_ns += service_ns
            self._service_ns += _FRESH * (service_ns - self._service_ns)
