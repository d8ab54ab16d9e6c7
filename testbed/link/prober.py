"""The prober role: what the path between device and server really carries, delays and loses.

``python -m testbed.link.prober``, one on the device and one on the server, standard library only.
The device's prober opens everything, so that only the server needs a port that a firewall lets in;
each packet and connection shows the token. Rates count IP bytes.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from testbed import framing
from testbed.control import Control, Message, claim_stdio, serve
from testbed.errors import TestbedError, UserError

HEADER = struct.Struct("!16sII")  # token, test, number of the packet in it
UDP_PAYLOAD_BYTES = framing.MTU_BYTES - 28
PING_BYTES = 64
SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)  # asm-generic/socket.h; old Pythons lack it
SO_RCVBUFFORCE = 33
TIMESPEC = struct.Struct("@ll")
BUFFER_BYTES = 1 << 22
TIMEOUT_S = 5.0
PACE_S = 0.0005
BLOCK = bytes(1 << 16)
HELLO = 0  # the test number with which the two meet


def udp_rate_bps(arrivals_ns: Sequence[int], skip: int) -> float | None:
    """Rate of full-size packets by their arrival, the first ``skip`` left out; None for too few.

    A bucket lets its depth pass at once: the packets after it leave one serialisation apart.
    """
    kept = arrivals_ns[skip:]
    if len(kept) < 2 or kept[-1] <= kept[0]:
        return None
    return (len(kept) - 1) * framing.MTU_BYTES * 8e9 / (kept[-1] - kept[0])


def tcp_rate_bps(stamps: Sequence[tuple[int, int]]) -> float | None:
    """Rate in IP bytes over the later half of a transfer's time; None for too few stamps.

    ``stamps``: (time in ns, payload bytes so far). The first half holds the slow start.
    """
    if len(stamps) < 2:
        return None
    middle_ns = (stamps[0][0] + stamps[-1][0]) / 2
    begin_ns, begin_bytes = next(stamp for stamp in stamps if stamp[0] >= middle_ns)
    end_ns, end_bytes = stamps[-1]
    if end_ns <= begin_ns:
        return None
    segment = framing.MTU_BYTES / framing.MSS_BYTES
    return (end_bytes - begin_bytes) * segment * 8e9 / (end_ns - begin_ns)


class Prober:
    """Either end; ``setup`` makes it the one that listens or the one that opens."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._token = b""
        self._udp: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._peer: tuple[str, int] = ("", 0)

    def hello(self) -> Message:
        """Nothing beyond the greeting's own facts."""
        return {}

    def handle(self, message: Message) -> None:
        """Do one thing: be set up, meet, send, receive, ping or echo."""
        kind = message["type"]
        if kind not in ("setup", "meet", "send", "receive", "ping", "echo"):
            raise UserError(f"prober: unknown message {kind!r}")
        getattr(self, f"_{kind}")(message)

    def _setup(self, message: Message) -> None:
        self.close()
        self._token = bytes.fromhex(message["token"])
        place = (message["address"], message.get("port", 0))
        try:
            if "peer" in message:
                self._peer = (message["peer"]["address"], message["peer"]["port"])
            else:
                self._listener = socket.create_server(place)
                place = self._listener.getsockname()
            self._udp = _udp_socket(place)
        except OSError as error:
            raise TestbedError(f"prober: {place[0]} port {place[1]}: {error}") from error
        self._control.send("ready", port=self._udp.getsockname()[1])

    def _meet(self, message: Message) -> None:
        """The listener learns the other's address; the other sends until it is answered."""
        assert self._udp is not None, "set up"
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._listener is None:
                self._udp.sendto(HEADER.pack(self._token, HELLO, 0), self._peer)
            if select.select([self._udp], [], [], 0.05)[0]:
                data, sender = self._udp.recvfrom(2048)
                if data[:16] == self._token:
                    if self._listener is not None:
                        self._peer = sender
                        self._udp.sendto(data, sender)
                    self._control.send("met")
                    return
        raise TestbedError(
            f"prober: no UDP packet came {'' if self._listener else 'back '}in {TIMEOUT_S:g} s; is "
            "the data path up, and does the server's firewall let the port in?"
        )

    def _packets(self, test: int, idle_s: float) -> Any:
        """Packets of one test as (number, kernel's time of arrival in ns), until idle."""
        assert self._udp is not None
        wait_s = TIMEOUT_S
        while not self._control.stopping.is_set():
            if not select.select([self._udp], [], [], wait_s)[0]:
                return
            data, extra, _, sender = self._udp.recvmsg(2048, 64)
            if data[:16] != self._token:
                continue
            _, found, number = HEADER.unpack_from(data)
            if found == HELLO and self._listener is not None:
                self._udp.sendto(data, sender)  # its first answer was lost
            if found != test:
                continue
            wait_s = idle_s
            seconds, nanoseconds = TIMESPEC.unpack(extra[0][2])
            yield number, seconds * 10**9 + nanoseconds, data, sender

    def _send(self, message: Message) -> None:
        sent = self._send_udp(message) if message["kind"] == "udp" else self._send_tcp(message)
        self._control.send("sent", **sent)

    def _send_udp(self, message: Message) -> dict[str, int]:
        assert self._udp is not None
        count, gap_s = message["packets"], framing.MTU_BYTES * 8 / message["rate_bps"]
        padding = bytes(UDP_PAYLOAD_BYTES - HEADER.size)
        begin_s, sent = time.monotonic(), 0
        while sent < count:
            due = min(count, int((time.monotonic() - begin_s) / gap_s) + 1)
            while sent < due:
                packet = HEADER.pack(self._token, message["test"], sent) + padding
                self._udp.sendto(packet, self._peer)
                sent += 1
            time.sleep(PACE_S)
        return {"packets": sent, "span_ns": round((time.monotonic() - begin_s) * 1e9)}

    def _send_tcp(self, message: Message) -> dict[str, int]:
        begin_s, sent = time.monotonic(), 0
        with self._connection() as stream:
            # A send buffer under the queue's size: the queue never overflows, so what is
            # measured is the link and not how a congestion control recovers.
            if message["window_bytes"]:
                window = message["window_bytes"]
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window)
            while time.monotonic() - begin_s < message["duration_ns"] / 1e9:
                sent += stream.send(BLOCK)
        return {"bytes": sent, "span_ns": round((time.monotonic() - begin_s) * 1e9)}

    def _receive(self, message: Message) -> None:
        if message["kind"] == "udp":
            found = self._packets(message["test"], message["idle_ns"] / 1e9)
            arrivals: list[int] = []
            numbers: set[int] = set()  # one that comes twice is one
            for number, t_ns, _, _ in found:
                arrivals.append(t_ns)
                numbers.add(number)
                if len(numbers) == message["packets"]:
                    break
            rate_bps = udp_rate_bps(arrivals, message["skip"])
            self._control.send("received", packets=len(numbers), rate_bps=rate_bps)
            return
        stamps: list[tuple[int, int]] = []
        with self._connection() as stream:
            received = 0
            while block := stream.recv(1 << 18):
                received += len(block)
                stamps.append((time.monotonic_ns(), received))
        self._control.send("received", bytes=received, rate_bps=tcp_rate_bps(stamps))

    def _connection(self) -> socket.socket:
        """A TCP connection of this test; strangers are turned away."""
        if self._listener is None:
            stream = socket.create_connection(self._peer, timeout=TIMEOUT_S)
            stream.sendall(self._token)
            return stream
        self._listener.settimeout(TIMEOUT_S)
        while True:
            stream, _ = self._listener.accept()
            stream.settimeout(TIMEOUT_S)
            with suppress(OSError):  # one who says nothing, or goes away
                if stream.recv(len(self._token), socket.MSG_WAITALL) == self._token:
                    return stream
            stream.close()

    def _echo(self, message: Message) -> None:
        """Send every packet of a test back until told to stop."""
        assert self._udp is not None
        echoed = 0
        while not self._control.stopping.is_set():
            if not select.select([self._udp], [], [], 0.02)[0]:
                continue
            data, sender = self._udp.recvfrom(2048)
            if data[:16] == self._token and HEADER.unpack_from(data)[1] == message["test"]:
                self._udp.sendto(data, sender)
                echoed += 1
        if not self._control.closed.is_set():
            self._control.stopping.clear()
        self._control.send("echoed", packets=echoed)

    def _ping(self, message: Message) -> None:
        """Round-trip times of small packets sent at a pace, answered or not."""
        assert self._udp is not None
        count, interval_s = message["count"], message["interval_ns"] / 1e9
        sent_ns: list[int] = []
        rtts_ns: dict[int, int] = {}
        begin_s = time.monotonic()
        end_s = begin_s + count * interval_s + message["timeout_ns"] / 1e9
        while len(rtts_ns) < count and (now_s := time.monotonic()) < end_s:
            due_s = begin_s + len(sent_ns) * interval_s
            if len(sent_ns) < count and now_s >= due_s:
                header = HEADER.pack(self._token, message["test"], len(sent_ns))
                sent_ns.append(time.monotonic_ns())
                self._udp.sendto(header.ljust(PING_BYTES, b"\0"), self._peer)
            wait_s = (due_s if len(sent_ns) < count else end_s) - time.monotonic()
            if select.select([self._udp], [], [], max(0.0, min(wait_s, interval_s)))[0]:
                data = self._udp.recv(2048)
                now_ns = time.monotonic_ns()
                if data[:16] != self._token:
                    continue  # a stranger's may be too short for a header
                _, test, number = HEADER.unpack_from(data)
                if test == message["test"]:
                    rtts_ns.setdefault(number, now_ns - sent_ns[number])
        self._control.send("pinged", sent=len(sent_ns), rtts_ns=list(rtts_ns.values()))

    def close(self) -> None:
        """Close every socket."""
        for held in (self._udp, self._listener):
            if held is not None:
                held.close()
        self._udp = self._listener = None


def _udp_socket(place: tuple[str, int]) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        try:
            udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        except PermissionError:  # not root: as much as the host allows
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        udp.bind(place)
    except BaseException:
        udp.close()
        raise
    return udp


def main() -> int:
    """Serve until end of stdin."""
    control = Control(*claim_stdio())
    prober = Prober(control)
    return serve("prober", control, prober)


if __name__ == "__main__":
    sys.exit(main())
