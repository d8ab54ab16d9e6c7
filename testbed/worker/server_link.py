"""The way to the server: a connection that is made again in the background after it failed."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from time import monotonic_ns
from typing import NamedTuple

from testbed.errors import TestbedError
from testbed.worker.client import Connection, Endpoint, Reply
from testbed.worker.hedge import Hedge
from testbed.worker.layout import Layout
from testbed.worker.wire import WireError

# Each failure doubles the pause before the next attempt, up to the most. A lost SYN is sent again
# after a second only, so an attempt is given up sooner and begun anew: with both bounds a link
# that is back is noticed well within a second.
_PAUSE_S, _PAUSE_MOST_S = 0.02, 0.25
_ATTEMPT_NS = 300_000_000
# A path that is slower than that to begin with gets this many times its first connect.
_ATTEMPT_FACTOR = 4


class Unreachable(WireError):
    """The connection is lost and not made again yet."""


class Recovery(NamedTuple):
    """The first exchange on a connection that was made again: a probe."""

    begun_ns: int
    reply: Reply


class ServerLink:
    """One connection at a time; where it fails, a thread makes another, with back-off.

    The new one counts only once a probe on it has succeeded; until then :meth:`up` is False and
    every exchange raises Unreachable at once, so that no query waits for a server that is gone.

    Raises WireError or OSError where the server cannot be reached to begin with: a run must not
    begin then.
    """

    def __init__(self, endpoint: Endpoint, outputs: int, probe: memoryview) -> None:
        self._endpoint = endpoint
        self._outputs = outputs
        self._probe = probe
        begun_ns = monotonic_ns()
        self._connection: Connection | None = Connection(endpoint, outputs)
        took_ns = monotonic_ns() - begun_ns
        attempt_ns = max(_ATTEMPT_NS, _ATTEMPT_FACTOR * took_ns)
        self._attempt = replace(endpoint, timeout_ns=min(endpoint.timeout_ns, attempt_ns))
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._recovery: Recovery | None = None
        self._thread: threading.Thread | None = None
        self._new: Connection | None = None

    def up(self) -> bool:
        """Whether a query may cross: the connection stands, and the server owes no late reply."""
        connection = self._connection
        if connection is None:
            return False
        try:
            return connection.free()
        except (WireError, OSError):
            self._lost(connection)
            return False

    def query(
        self,
        query: int,
        layout: Layout,
        payload: memoryview,
        *,
        bound_ns: int | None = None,
        hedge: Hedge | None = None,
    ) -> Reply:
        """As :meth:`Connection.query`; after WireError or OSError the connection is made again."""
        connection = self._needed()
        try:
            return connection.query(query, layout, payload, bound_ns=bound_ns, hedge=hedge)
        except (WireError, OSError):
            self._lost(connection)
            raise

    def probe(self, query: int, payload: memoryview) -> Reply:
        """As :meth:`Connection.probe`; after WireError or OSError the connection is made again."""
        connection = self._needed()
        try:
            return connection.probe(query, payload)
        except (WireError, OSError):
            self._lost(connection)
            raise

    def recovered(self) -> Recovery | None:
        """The probe that a connection made again began with, once."""
        recovery, self._recovery = self._recovery, None
        return recovery

    def close(self) -> None:
        """Close the connection and end the attempts to make one."""
        self._closed.set()
        with self._lock:
            for connection in (self._connection, self._new):
                if connection is not None:
                    connection.close()
            self._connection = None
        if self._thread is not None:
            self._thread.join()

    def _needed(self) -> Connection:
        connection = self._connection
        if connection is None:
            raise Unreachable("the connection is lost; it is being made again")
        return connection

    def _lost(self, connection: Connection) -> None:
        # A reply that comes late must not answer another query.
        connection.close()
        with self._lock:
            self._connection = None
        if not self._closed.is_set():
            self._thread = threading.Thread(target=self._remake, name="reconnect", daemon=True)
            self._thread.start()

    def _remake(self) -> None:
        pause_s = _PAUSE_S
        while not self._closed.wait(pause_s):
            pause_s = min(2 * pause_s, _PAUSE_MOST_S)
            begun_ns = monotonic_ns()
            with suppress(TestbedError, OSError):
                reply = self._try(Connection(self._attempt, self._outputs))
                with self._lock:
                    self._connection, self._new = self._new, None
                    self._recovery = Recovery(begun_ns, reply)
                return

    def _try(self, connection: Connection) -> Reply:
        """Probe a new connection, where closing the link finds it."""
        with self._lock:
            self._new = connection
            if self._closed.is_set():
                connection.close()
        try:
            connection.be_patient(self._endpoint.timeout_ns)
            return connection.probe(1, self._probe)
        except BaseException:
            connection.close()
            raise
