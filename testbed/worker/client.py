"""The device's end of the data connection: one query at a time, until the first failure."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns

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

_NO_LOGITS = reply_header(REPLY_BYTES)


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


@dataclass(slots=True)
class Reply:
    """One exchange: ``send_ns`` is a duration, ``arrived_ns`` the time of the last byte.

    ``bytes_up`` and ``bytes_down`` are TCP payload, headers of frames included. ``logits`` are
    float32 bytes in the connection's buffer, valid until the next exchange; ``told`` is a copy of
    what the server told, read where it is wanted: that costs most after a wake-up.
    """

    told: bytes
    logits: memoryview
    send_ns: int
    arrived_ns: int
    bytes_up: int
    bytes_down: int

    @property
    def times(self) -> ServerTimes:
        """What the server told, on its own clock."""
        return ServerTimes.unpack(self.told)


class Connection:
    """One connection, open from its token to its first failure.

    Raises WireError or OSError from every method; it is then of no further use.
    """

    def __init__(self, endpoint: Endpoint, outputs: int) -> None:
        self._timeout_ns = endpoint.timeout_ns
        self._logits = reply_header(REPLY_BYTES + outputs * FLOAT32_BYTES)
        self._owed: tuple[int, Header, int] | None = None  # (query, its reply, until when)
        self._socket = socket.create_connection(
            (endpoint.address, endpoint.port), timeout=endpoint.timeout_ns / 1e9
        )
        try:
            configure(self._socket, endpoint.timeout_ns, endpoint.congestion_control)
            capacity = max(self._logits.payload_bytes, MAX_TEXT_BYTES)
            buffer = aligned_buffer(HEADER_BYTES + capacity)
            self._receiver = Receiver(self._socket, buffer, _replies_only)
            token = endpoint.token.encode()
            header = seal(describe(Header(Kind.TOKEN, 0, Dtype.RAW, 0, (), len(token))))
            send(self._socket, header, token, timeout_ns=endpoint.timeout_ns)
            self._answer(0, reply_header(0))
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
        return self._exchange(description, query, payload, self._logits, bound_ns, hedge)

    def probe(self, query: int, payload: memoryview) -> Reply:
        """Send bytes that no tail will read, for the time they take on the link."""
        description = describe(Header(Kind.PROBE, 0, Dtype.RAW, 0, (), len(payload)))
        return self._exchange(description, query, payload, _NO_LOGITS)

    def free(self) -> bool:
        """Whether the server owes no reply that a hedge overtook; takes it where it has come.

        The peers take turns, so the next query waits for it. Raises PeerTimeout when it does not
        come within the query's own time-out.
        """
        if self._owed is None:
            return True
        query, reply, deadline_ns = self._owed
        if select.select([self._socket], [], [], 0)[0]:
            self._answer(query, reply)
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
        reply: Header,
        bound_ns: int | None = None,
        hedge: Hedge | None = None,
    ) -> Reply:
        patience_ns = self._timeout_ns
        if bound_ns is not None and bound_ns < patience_ns:
            self.be_patient(bound_ns)
        try:
            begun_ns = monotonic_ns()
            send(self._socket, seal(description, query), payload, timeout_ns=self._timeout_ns)
            send_ns = monotonic_ns() - begun_ns
            self._receiver.expect(query)
            seal(description, query + 1)  # what is likely to be sent next
            if hedge is not None and hedge.overtakes(self._socket, self._timeout_ns - send_ns):
                self._owed = (query, reply, begun_ns + self._timeout_ns)
                raise Overtaken
            frame = self._answer(query, reply)
        finally:
            if self._timeout_ns != patience_ns:  # overtaken, too: the connection lives on
                self.be_patient(patience_ns)
        answer = frame.payload
        return Reply(
            answer[-REPLY_BYTES:].tobytes(),
            answer[:-REPLY_BYTES],
            send_ns,
            frame.arrived_ns,
            HEADER_BYTES + len(payload),
            HEADER_BYTES + len(answer),
        )

    def _answer(self, query: int, reply: Header) -> Frame:
        frame = self._receiver.receive(timeout_ns=self._timeout_ns)
        if frame.header == reply and frame.query == query:
            return frame
        if frame.header.kind == Kind.ERROR:
            raise Refused(f"server: {bytes(frame.payload).decode(errors='replace')}")
        raise BadFrame(f"reply: expected {reply} to {query}, got {frame.header} to {frame.query}")


def _replies_only(header: Header) -> None:
    if header.kind not in (Kind.REPLY, Kind.ERROR):
        raise BadFrame(f"frame kind: expected a reply, got {header.kind}")
