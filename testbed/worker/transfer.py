"""Sending and receiving frames on one connected socket, and timing what arrives.

Standard library only.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns

from testbed.errors import TestbedError
from testbed.framing import LINK_FRAME_BYTES, MSS_BYTES, MTU_BYTES, burst_bytes
from testbed.worker.wire import (
    DESCRIPTION_BYTES,
    HEADER_BYTES,
    QUERIES,
    BadFrame,
    Header,
    PeerGone,
    PeerTimeout,
    seal,
    understand,
    unseal,
)

# Descriptions remembered for one peer: more than most networks have cuts. Others are read anew.
_KNOWN_MOST = 512
# Fewer segments than this after the mark arrive as one or two wake-ups: no rate can be told.
_LEAST_SEGMENTS = 8
# Of a span, as burst that was not waited for: it makes the rate too high by about as much.
_BURST_SHARE = 0.1


@dataclass(slots=True)
class Frame:
    """A received frame; the payload lies in the receiver's buffer until the next one.

    ``arrived_ns`` is the time of its last byte. ``span_bytes`` IP bytes took ``span_ns`` on the
    link after the bucket's burst was spent; both None where too few segments tell nothing.
    """

    header: Header
    query: int
    payload: memoryview
    arrived_ns: int
    span_bytes: int | None
    span_ns: int | None


def mark_bytes(rate_bps: float) -> int:
    """TCP bytes that the bucket's burst lets through at once at a rate (0: unknown)."""
    return burst_bytes(rate_bps) * MSS_BYTES // LINK_FRAME_BYTES


def span_ip_bytes(total_bytes: int, marked_bytes: int) -> int | None:
    """IP bytes that the link serialised between a receive boundary and the last byte.

    HTB releases a packet when the debt of the one before is paid: the span holds the packet at
    the mark (a full segment) and not the last one. None with too few segments to tell.
    """
    rest = total_bytes - marked_bytes
    if rest < _LEAST_SEGMENTS * MSS_BYTES:
        return None
    last = total_bytes % MSS_BYTES or MSS_BYTES
    return (rest + MSS_BYTES - last) * MTU_BYTES // MSS_BYTES


def burst_spent(span_bytes: int, rate_bps: float, marked_bytes: int) -> bool:
    """Whether a span that began at a mark holds little of the burst of the rate that it tells.

    A mark set too early, for a lower rate, leaves in the span what the bucket gave at once.
    """
    return mark_bytes(rate_bps) - marked_bytes <= _BURST_SHARE * span_bytes


def configure(sock: socket.socket, timeout_ns: int, congestion_control: str | None) -> None:
    """Set up a connected socket: no Nagle, kernel time-outs, optionally its congestion control.

    The kernel's own time-outs spare the poll before each call that a Python time-out costs.
    Raises TestbedError where the host does not offer the congestion control.
    """
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit = struct.pack("@ll", timeout_ns // 10**9, timeout_ns % 10**9 // 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    if congestion_control is None:
        return
    try:
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode("ascii")
        )
    except (OSError, UnicodeEncodeError) as error:
        raise TestbedError(
            f"congestion_control: {congestion_control!r} is not available on this host ({error}); "
            "see /proc/sys/net/ipv4/tcp_available_congestion_control"
        ) from error


def send(sock: socket.socket, *parts: memoryview | bytes, timeout_ns: int) -> None:
    """Send a frame from where its parts lie; raises PeerTimeout, or OSError where it is cut."""
    try:
        sent = sock.sendmsg(parts)  # before anything else: what follows passes while it travels
        left = sum(map(len, parts)) - sent
        deadline_ns = monotonic_ns() + timeout_ns
        while left:
            # Seldom: the time-out cut a send short, so the copy of the rest costs nothing.
            rest = b"".join(parts)[-left:]
            left -= sock.send(rest)
            if left and monotonic_ns() > deadline_ns:
                raise PeerTimeout(f"send: {left} bytes not taken within the time-out")
    except BlockingIOError as error:
        raise PeerTimeout("send: nothing more taken within the time-out") from error


class Receiver:
    """Receives frames into one reused buffer, which bounds what a peer can send.

    The peers take turns, so header and first bytes of the payload come with one call; the
    buffer's first ``HEADER_BYTES`` are the header's. ``allowed`` raises BadFrame for a
    description that this peer may not send.
    """

    def __init__(
        self, sock: socket.socket, buffer: memoryview, allowed: Callable[[Header], None]
    ) -> None:
        self._sock = sock
        self._frame = buffer
        self._head = buffer[:HEADER_BYTES]
        self._payload = buffer[HEADER_BYTES:]
        self._allowed = allowed
        self._known: dict[bytes, tuple[Header, memoryview]] = {}  # with where the payload lies
        self._last: tuple[Header, memoryview]  # set by the first frame, as its description is
        self._description = b""
        self._foretold = (b"", 0)

    def expect(self, query: int) -> None:
        """Work out the header of a frame like the last one while the peer is at work on it.

        Any other frame may come all the same, and is read as if nothing had been expected.
        """
        self._foretold = seal(self._description, query), query % QUERIES

    def receive(self, *, timeout_ns: int, mark_bytes: int = 0, idle: bool = False) -> Frame:
        """The next frame; ``idle`` waits for its first byte for as long as the socket lives.

        ``mark_bytes`` is where the span for the rate begins. Raises PeerTimeout when the frame
        is not whole ``timeout_ns`` after its header, that one ``timeout_ns`` after its first
        bytes, or nothing comes for the socket's own time-out; BadFrame before anything not
        allowed is received beyond the buffer.
        """
        try:
            got = self._wait_idle() if idle else self._sock.recv_into(self._frame)
            if got < HEADER_BYTES:
                got = self._rest_of_header(got, timeout_ns)
            now_ns = monotonic_ns()
            foretold, query = self._foretold
            whole = self._head.tobytes()
            if whole != foretold:
                query = self._open(whole)
            header, payload = self._last
            total = HEADER_BYTES + len(payload)
            if got > total:
                raise BadFrame(f"frame: expected one of {total} bytes a turn, got {got}")
            if got == total:
                return Frame(header, query, payload, now_ns, None, None)
            rest = self._rest_of_payload(payload, got, now_ns, timeout_ns, mark_bytes)
            return Frame(header, query, payload, *rest)
        except BlockingIOError as error:
            raise PeerTimeout("receive: nothing more came within the time-out") from error

    def _wait_idle(self) -> int:
        while True:
            try:
                return self._sock.recv_into(self._frame)
            except BlockingIOError:
                continue

    def _rest_of_header(self, got: int, timeout_ns: int) -> int:
        deadline_ns = monotonic_ns() + timeout_ns
        if not got:
            raise PeerGone("closed by the peer")
        while got < HEADER_BYTES:
            if monotonic_ns() > deadline_ns:
                raise PeerTimeout(f"receive: {got} of {HEADER_BYTES} header bytes in the time-out")
            count = self._sock.recv_into(self._frame[got:])
            if not count:
                raise PeerGone(f"closed by the peer after {got} of {HEADER_BYTES} header bytes")
            got += count
        return got

    def _rest_of_payload(
        self, payload: memoryview, got: int, now_ns: int, timeout_ns: int, mark_bytes: int
    ) -> tuple[int, int | None, int | None]:
        """When the last byte came, and the span from the mark to it."""
        total = HEADER_BYTES + len(payload)
        marked_ns, marked = now_ns, got
        deadline_ns = now_ns + timeout_ns
        while got < total:
            count = self._sock.recv_into(payload[got - HEADER_BYTES :])
            now_ns = monotonic_ns()
            if not count:
                raise PeerGone(f"closed by the peer after {got} of {total} bytes")
            if marked < mark_bytes:
                marked_ns, marked = now_ns, got + count
            got += count
            if now_ns > deadline_ns:
                raise PeerTimeout(f"receive: {got} of {total} bytes within the time-out")
        span = span_ip_bytes(total, marked)
        return now_ns, span, None if span is None else now_ns - marked_ns

    def _open(self, whole: bytes) -> int:
        """The query of a header that was not foretold, checked for all that is new in it."""
        description = whole[:DESCRIPTION_BYTES]
        known = self._known.get(description)
        header = known[0] if known else understand(description)
        query = unseal(whole)
        self._last = known or self._admit(description, header)
        self._description = description
        return query

    def _admit(self, description: bytes, header: Header) -> tuple[Header, memoryview]:
        self._allowed(header)
        payload = self._payload[: header.payload_bytes]
        if len(payload) < header.payload_bytes:
            raise BadFrame(
                f"frame: expected at most {len(self._payload)} bytes a turn, got "
                f"{header.payload_bytes}"
            )
        if len(self._known) < _KNOWN_MOST:
            self._known[description] = header, payload
        return header, payload
