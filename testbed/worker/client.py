"""The device's end of the data connection: one query at a time, until the first failure."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns
from typing import NamedTuple

from testbed.worker.encoding import aligned_buffer
from testbed.worker.hedge import Hedge
from testbed.worker.layout import FLOAT32_BYTES, REPLY_BYTES, Layout, ServerTimes, reply_header
from testbed.worker.transfer import Frame, Receiver, configure, send
from testbed.worker.wire import (
    HEADER_BYTES,
    MAX_TEXT_BYTES,
    BadFrame,
    Dtype,
    Header,
    Kind,
    PeerTimeout,
    WireError,
    describe,
    seal,
)


class Refused(WireError):
    """The server closed the exchange and said why."""


class Overtaken(Exception):
    """The hedge was first; the reply is still owed."""


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
        self._reply_bytes = REPLY_BYTES + outputs * FLOAT32_BYTES
        self._replies = {
            size: describe(reply_header(size)) for size in (REPLY_BYTES, self._reply_bytes)
        }
        self._owed: tuple[int, int, int] | None = None  # (query, bytes of its reply, until when)
        self._socket = socket.create_connection(
            (endpoint.address, endpoint.port), timeout=endpoint.timeout_ns / 1e9
        )
        try:
            configure(self._socket, endpoint.timeout_ns, endpoint.congestion_control)
            capacity = max(self._reply_bytes, MAX_TEXT_BYTES)
            buffer = aligned_buffer(HEADER_BYTES + capacity)
            self._receiver = Receiver(self._socket, buffer, _replies_only)
            token = endpoint.token.encode()
            self._turn(describe(Header(Kind.TOKEN, 0, Dtype.RAW, 0, (), len(token))), 0, token, 0)
        except BaseException:
            self.close()
            raise

    def query(
        self,
        query: int,
        layout: Layout,
        payload: memoryview,
        *,
        verify: bool = False,
        bound_ns: int | None = None,
        hedge: Hedge | None = None,
    ) -> Reply:
        """Send an encoded tensor and wait for the tail's logits ``(N, outputs)``.

        For ``bound_ns`` at most, where that is less than the connection's time-out. Raises
        Overtaken when the hedge was first; the next query must wait until :meth:`free`.
        """
        description = layout.description(len(payload), verify=verify)
        return self._exchange(description, query, payload, self._reply_bytes, bound_ns, hedge)

    def probe(self, query: int, payload: memoryview) -> Reply:
        """Send bytes that no tail will read, for the time they take on the link."""
        description = describe(Header(Kind.PROBE, 0, Dtype.RAW, 0, (), len(payload)))
        return self._exchange(description, query, payload, REPLY_BYTES)

    def free(self) -> bool:
        """Whether the server owes no reply that a hedge overtook; takes it where it has come.

        The peers take turns, so the next query waits for it. Raises PeerTimeout when it does not
        come within the query's own time-out.
        """
        if self._owed is None:
            return True
        query, reply_bytes, deadline_ns = self._owed
        if select.select([self._socket], [], [], 0)[0]:
            self._answer(query, reply_bytes)
            self._owed = None
        elif monotonic_ns() > deadline_ns:
            raise PeerTimeout("receive: the reply that was overtaken did not come either")
        return self._owed is None

    def be_patient(self, timeout_ns: int) -> None:
        """Wait up to another time-out from now on."""
        configure(self._socket, timeout_ns, None)
        self._timeout_ns = timeout_ns

    def close(self) -> None:
        """Close the socket; a reply still on its way is lost with it, a thread waiting wakes."""
        with suppress(OSError):  # the peer was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exchange(
        self,
        description: bytes,
        query: int,
        payload: memoryview,
        reply_bytes: int,
        bound_ns: int | None = None,
        hedge: Hedge | None = None,
    ) -> Reply:
        patience_ns = self._timeout_ns
        if bound_ns is not None and bound_ns < patience_ns:
            self.be_patient(bound_ns)
        try:
            send_ns, frame = self._turn(description, query, payload, reply_bytes, hedge)
        finally:
            if self._timeout_ns != patience_ns:  # overtaken, too: the connection lives on
                self.be_patient(patience_ns)
        return Reply(
            ServerTimes.unpack(frame.payload),
            frame.payload[:-REPLY_BYTES],
            send_ns,
            frame.arrived_ns,
            HEADER_BYTES + len(payload),
            HEADER_BYTES + len(frame.payload),
        )

    def _turn(
        self,
        description: bytes,
        query: int,
        payload: memoryview | bytes,
        reply_bytes: int,
        hedge: Hedge | None = None,
    ) -> tuple[int, Frame]:
        begun_ns = monotonic_ns()
        send(self._socket, seal(description, query), payload, timeout_ns=self._timeout_ns)
        send_ns = monotonic_ns() - begun_ns
        if reply_bytes:
            self._receiver.expect(self._replies[reply_bytes], query)
        if hedge is not None and hedge.overtakes(self._socket, self._timeout_ns - send_ns):
            self._owed = (query, reply_bytes, begun_ns + self._timeout_ns)
            raise Overtaken
        return send_ns, self._answer(query, reply_bytes)

    def _answer(self, query: int, reply_bytes: int) -> Frame:
        frame = self._receiver.receive(timeout_ns=self._timeout_ns)
        if frame.header.kind == Kind.ERROR:
            raise Refused(f"server: {bytes(frame.payload).decode(errors='replace')}")
        got = (frame.query, frame.header.payload_bytes)
        if got != (query, reply_bytes):
            raise BadFrame(f"reply: expected query and bytes {(query, reply_bytes)}, got {got}")
        return frame


def _replies_only(header: Header) -> None:
    if header.kind not in (Kind.REPLY, Kind.ERROR):
        raise BadFrame(f"frame kind: expected a reply, got {header.kind}")
