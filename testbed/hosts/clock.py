"""Offset of a host's monotonic clock to the orchestrator's, with its bound."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from testbed.hosts.role import RoleProcess

EXCHANGES = 60
EXCHANGE_TIMEOUT_S = 10.0


class Exchange(NamedTuple):
    """One question and answer: sent and received on our clock, answered on the host's."""

    sent_ns: int
    answered_ns: int
    received_ns: int

    @property
    def rtt_ns(self) -> int:
        """Round trip on our clock."""
        return self.received_ns - self.sent_ns


@dataclass(frozen=True)
class ClockOffset:
    """``offset_ns`` = host − orchestrator (CLOCK_MONOTONIC), right to within ``bound_ns``.

    ``n`` exchanges were made around the orchestrator's time ``t_ns``.
    """

    offset_ns: int
    bound_ns: int
    n: int
    t_ns: int


def estimate_offset(exchanges: Sequence[Exchange]) -> ClockOffset:
    """The median offset of the tenth with the least round trip (as NTP's clock filter does).

    An answer was given somewhere between sending and receiving, so each offset is right to half
    its round trip, and the median to half the largest one kept.
    """
    kept = sorted(exchanges, key=lambda e: e.rtt_ns)[: max(1, len(exchanges) // 10)]
    offsets = [e.answered_ns - (e.sent_ns + e.received_ns) // 2 for e in kept]
    return ClockOffset(
        offset_ns=round(median(offsets)),
        bound_ns=-(-kept[-1].rtt_ns // 2),
        n=len(exchanges),
        t_ns=(exchanges[0].sent_ns + exchanges[-1].received_ns) // 2,
    )


def measure_offset(role: RoleProcess, n: int = EXCHANGES) -> ClockOffset:
    """Ask the role's clock ``n`` times over its control channel; raises HostError."""
    exchanges = []
    for _ in range(n):
        sent_ns = time.monotonic_ns()
        role.send({"type": "clock", "n": sent_ns})
        # An answer that a measurement before gave up on may still come.
        while (reply := role.wait("clock", EXCHANGE_TIMEOUT_S))["n"] != sent_ns:
            pass
        exchanges.append(Exchange(sent_ns, reply["t_ns"], reply["received_ns"]))
    return estimate_offset(exchanges)
