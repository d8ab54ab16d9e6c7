"""The device's end of the data connection: one query at a time, and what to do when it is lost."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic_ns
from typing import NamedTuple

from testbed.worker.encoding import aligned_buffer
from testbed.worker.layout import FLOAT32_BYTES, REPLY_BYTES, Layout, ServerTimes
from testbed.worker.transfer import Frame, Receiver, configure, send
from testbed.worker.wire import (
    HEADER_BYTES,
    MAX_TEXT_BYTES,
    BadFrame,
    Dtype,
    Header,
    Kind,
    WireError,
    describe,
    seal,
)

# Between attempts to reconnect: each failure doubles the pause up to the bound.
_BACKOFF_NS = 100_000_000
_BACKOFF_MOST_NS = 5_000_000_000


class Unreachable(WireError):
    """No connection, and it is too soon to try again."""


class Refused(WireError):
    """The server closed the exchange and said why."""


@dataclass(frozen=True)
class Endpoint:
    """Where the server listens, what it wants to see first, and how long to wait for it."""

    address: str
    port: int
    token: str
    timeout_ns: int
    congestion_control: str | None


class Reply(NamedTuple):
    """One exchange: ``send_ns`` is a duration, ``arrived_ns`` the time of the last byte.

    ``bytes_up`` and ``bytes_down`` are TCP payload, headers of frames included. ``logits`` are
    float32 bytes in the connection's buffer, valid until the next exchange.
    """

    times: ServerTimes
    logits: memoryview
    send_ns: int
    arrived_ns: int
    bytes_up: int
    bytes_down: int


class Connection:
    """One connection, open from its token to its first failure.

    Raises WireError or OSError from every method; it is then of no further use.
    """

    def __init__(self, endpoint: Endpoint, outputs: int) -> None:
        self._timeout_ns = endpoint.timeout_ns
        self._logits_bytes = outputs * FLOAT32_BYTES
        self._socket = socket.create_connection(
            (endpoint.address, endpoint.port), timeout=endpoint.timeout_ns / 1e9
        )
        try:
            configure(self._socket, endpoint.timeout_ns, endpoint.congestion_control)
            capacity = max(REPLY_BYTES + self._logits_bytes, MAX_TEXT_BYTES)
            buffer = aligned_buffer(HEADER_BYTES + capacity)
            self._receiver = Receiver(self._socket, buffer, _replies_only)
            token = endpoint.token.encode()
            self._turn(describe(Header(Kind.TOKEN, 0, Dtype.RAW, 0, (), len(token))), 0, token, 0)
        except BaseException:
            self.close()
            raise

    def query(
        self, query: int, layout: Layout, payload: memoryview, *, verify: bool = False
    ) -> Reply:
        """Send an encoded tensor and wait for the tail's logits ``(N, outputs)``."""
        description = layout.description(len(payload), verify=verify)
        return self._exchange(description, query, payload, self._logits_bytes)

    def probe(self, query: int, payload: memoryview) -> Reply:
        """Send bytes that no tail will read, for the time they take on the link."""
        description = describe(Header(Kind.PROBE, 0, Dtype.RAW, 0, (), len(payload)))
        return self._exchange(description, query, payload, 0)

    def close(self) -> None:
        """Close the socket; a reply still on its way is lost with it."""
        self._socket.close()

    def _exchange(
        self, description: bytes, query: int, payload: memoryview, logits_bytes: int
    ) -> Reply:
        begun_ns = monotonic_ns()
        sent_ns, frame = self._turn(description, query, payload, REPLY_BYTES + logits_bytes)
        return Reply(
            ServerTimes.unpack(frame.payload),
            frame.payload[REPLY_BYTES:],
            sent_ns - begun_ns,
            frame.arrived_ns,
            HEADER_BYTES + len(payload),
            HEADER_BYTES + len(frame.payload),
        )

    def _turn(
        self, description: bytes, query: int, payload: memoryview | bytes, reply_bytes: int
    ) -> tuple[int, Frame]:
        send(self._socket, seal(description, query), payload, timeout_ns=self._timeout_ns)
        sent_ns = monotonic_ns()
        frame = self._receiver.receive(timeout_ns=self._timeout_ns)
        if frame.header.kind == Kind.ERROR:
            raise Refused(f"server: {bytes(frame.payload).decode(errors='replace')}")
        got = (frame.query, frame.header.payload_bytes)
        if got != (query, reply_bytes):
            raise BadFrame(f"reply: expected query and bytes {(query, reply_bytes)}, got {got}")
        return sent_ns, frame


def _replies_only(header: Header) -> None:
    if header.kind not in (Kind.REPLY, Kind.ERROR):
        raise BadFrame(f"frame kind: expected a reply, got {header.kind}")


class ServerLink:
    """A connection that a later query makes again, with back-off, after one that failed.

    Raises WireError or OSError where the server cannot be reached at once: a run must not begin.
    """

    def __init__(
        self, endpoint: Endpoint, outputs: int, now_ns: Callable[[], int] = monotonic_ns
    ) -> None:
        self._endpoint = endpoint
        self._outputs = outputs
        self._now_ns = now_ns
        self._backoff_ns = _BACKOFF_NS
        self._not_before_ns = 0
        self._connection: Connection | None = Connection(endpoint, outputs)

    def query(
        self, query: int, layout: Layout, payload: memoryview, *, verify: bool = False
    ) -> Reply:
        """As :meth:`Connection.query`; WireError or OSError when this exchange failed."""
        with self._attempt() as connection:
            return connection.query(query, layout, payload, verify=verify)

    def probe(self, query: int, payload: memoryview) -> Reply:
        """As :meth:`Connection.probe`; WireError or OSError when this exchange failed."""
        with self._attempt() as connection:
            return connection.probe(query, payload)

    @contextmanager
    def _attempt(self) -> Iterator[Connection]:
        if self._connection is None and self._now_ns() < self._not_before_ns:
            raise Unreachable("the connection is lost; the next attempt is not due yet")
        try:
            if self._connection is None:
                self._connection = Connection(self._endpoint, self._outputs)
            yield self._connection
            self._backoff_ns = _BACKOFF_NS
        except (WireError, OSError):
            # Dropped: a reply that comes late must not answer another query.
            self.close()
            self._not_before_ns = self._now_ns() + self._backoff_ns
            self._backoff_ns = min(2 * self._backoff_ns, _BACKOFF_MOST_NS)
            raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
