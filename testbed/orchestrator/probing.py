"""The orchestrator's end of two probers: one measurement at a time over the data path."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed import framing
from testbed.config import Host
from testbed.hosts.connection import Connection, each
from testbed.hosts.deploy import deploy
from testbed.hosts.role import RoleProcess
from testbed.orchestrator.shaping import prober_port

ANSWER_TIMEOUT_S = 30.0
OFFERED = 1.5  # times the rate: enough that the queue never runs empty
LEAST_PACKETS = 60
IDLE_NS, IDLE_PACKETS = 50_000_000, 5
PING_TIMEOUT_NS = 1_000_000_000
Message = dict[str, Any]


class Probers:
    """Probers on device and server, met; a context manager whose exit ends them.

    ``hosts`` maps ``device`` and ``server`` to their connections; of several routers, each with
    probers of its own, these are the ``nth``'s.
    """

    def __init__(self, hosts: Mapping[str, Connection], logs: Path, nth: int = 0) -> None:
        self._nth = nth
        self._tests = 0
        self._roles: dict[str, RoleProcess] = {}
        try:
            each("start probers", {s: partial(self._start, s, c, logs) for s, c in hosts.items()})
            self._meet({side: connection.host for side, connection in hosts.items()})
        except BaseException:
            self.close()
            raise

    def _start(self, side: str, connection: Connection, logs: Path) -> None:
        deployed = deploy(connection, {"prober"})
        self._roles[side] = RoleProcess.start(
            connection,
            "prober",
            deployed,
            log=logs / f"prober-{side}{self._nth or ''}.log",
            on_record=lambda role, file, record: None,
        )

    def _meet(self, hosts: Mapping[str, Host]) -> None:
        token = secrets.token_hex(16)
        data = {side: host.data for side, host in hosts.items()}
        assert data["server"] is not None, "the inventory's own check"
        assert data["device"] is not None
        port = prober_port(data["server"].port, self._nth)
        address = str(data["server"].address)
        setup = {"type": "setup", "token": token, "address": address, "port": port}
        port = self._ask("server", setup, "ready")["port"]
        peer = {"address": address, "port": port}
        own = str(data["device"].address)
        self._ask(
            "device", {"type": "setup", "token": token, "address": own, "peer": peer}, "ready"
        )
        self._roles["server"].send({"type": "meet"})
        self._ask("device", {"type": "meet"}, "met")
        self._roles["server"].wait("met", ANSWER_TIMEOUT_S)

    def _ask(self, side: str, message: Message, expect: str) -> Message:
        return self._roles[side].request(message, expect, ANSWER_TIMEOUT_S)

    def _pass(self, direction: str, receive: Message, send: Message) -> tuple[Message, Message]:
        """One transfer; what the sender and the receiver say of it."""
        sender, receiver = ("device", "server") if direction == "uplink" else ("server", "device")
        self._tests += 1
        test = {"test": self._tests, "kind": receive["kind"]}
        self._roles[receiver].send({"type": "receive", **receive, **test})
        sent = self._ask(sender, {"type": "send", **send, **test}, "sent")
        return sent, self._roles[receiver].wait("received", ANSWER_TIMEOUT_S)

    def udp(self, direction: str, rate_bps: int, seconds: float) -> Message:
        """Offer more than the rate: ``{"rate_bps", "packets", "sent"}`` of what came through."""
        packet_ns = framing.MTU_BYTES * 8e9 / rate_bps
        # While the bucket empties it also fills: it is empty after this many packets.
        skip = (
            round(framing.burst_bytes(rate_bps) / framing.MTU_BYTES * OFFERED / (OFFERED - 1)) + 5
        )
        packets = max(LEAST_PACKETS, round(seconds * 1e9 / packet_ns)) + skip
        idle_ns = round(max(IDLE_NS, IDLE_PACKETS * packet_ns))
        sent, received = self._pass(
            direction,
            {"kind": "udp", "packets": packets, "skip": skip, "idle_ns": idle_ns},
            {"packets": packets, "rate_bps": OFFERED * rate_bps},
        )
        return {
            "rate_bps": received["rate_bps"],
            "packets": received["packets"],
            "sent": sent["packets"],
        }

    def lossy(self, direction: str, rate_bps: int, packets: int) -> Message:
        """Offer half the rate, which overflows no queue: ``{"sent", "arrived"}``."""
        idle_ns = round(max(IDLE_NS, 20 * IDLE_PACKETS * framing.MTU_BYTES * 8e9 / rate_bps))
        sent, received = self._pass(
            direction,
            {"kind": "udp", "packets": packets, "skip": 0, "idle_ns": idle_ns},
            {"packets": packets, "rate_bps": rate_bps / 2},
        )
        return {"sent": sent["packets"], "arrived": received["packets"]}

    def tcp(self, direction: str, seconds: float, window_bytes: int | None = None) -> Message:
        """One TCP transfer: ``{"rate_bps"}`` in IP bytes over its later half."""
        duration_ns = round(seconds * 1e9)
        send = {"duration_ns": duration_ns, "window_bytes": window_bytes}
        _, received = self._pass(direction, {"kind": "tcp"}, send)
        return {"rate_bps": received["rate_bps"]}

    def ping(self, count: int, interval_ns: int) -> Message:
        """``{"sent", "rtts_ns"}`` of small packets from the device to the server and back."""
        self._tests += 1
        test = {"test": self._tests}
        self._roles["server"].send({"type": "echo", **test})
        ask = {"count": count, "interval_ns": interval_ns, "timeout_ns": PING_TIMEOUT_NS}
        pinged = self._ask("device", {"type": "ping", **ask, **test}, "pinged")
        self._roles["server"].stop()
        self._roles["server"].wait("echoed", ANSWER_TIMEOUT_S)
        return {"sent": pinged["sent"], "rtts_ns": pinged["rtts_ns"]}

    def close(self) -> None:
        """End both."""
        for role in self._roles.values():
            role.close()

    def __enter__(self) -> Probers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
