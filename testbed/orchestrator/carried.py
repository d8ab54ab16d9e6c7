"""What a shaped link carried in each second of a run, against what it was set to. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# Late timers and the rounding of ticks stay within this; more means that the shaping is not there.
OVER_SHARE = 0.03
# A sender that meets more loss than this at the queue is measuring its congestion control.
DROP_SHARE = 0.05
# Two samples closer than this follow a stall; the moment of each is not known well enough.
SHORTEST_NS = 500_000_000
Record = dict[str, Any]


@dataclass(frozen=True)
class Second:
    """One direction between two counter samples, about a second apart, in link bytes.

    ``offered`` is the integral of the class's rate as applied; ``burst`` the deepest bucket.
    """

    direction: str
    t_ns: int
    carried: int
    offered: int
    burst: int
    packets: int
    drops: int
    backlog: int

    @property
    def exceeds(self) -> bool:
        """Whether more came through than the rate, the bucket and a bound allow."""
        return self.carried > (1 + OVER_SHARE) * self.offered + self.burst


def seconds_of(records: Iterable[Record], direction: str) -> Iterator[Second]:
    """The seconds of one direction from its ``link`` records, in order of time."""
    own = [record for record in records if record["direction"] == direction]
    changes = [record for record in own if "class_bps" in record]
    samples = [record for record in own if "sample" in record]
    for before, after in pairwise(samples):
        was, now = before["sample"], after["sample"]
        begin_ns, end_ns = before["t_ns"], after["t_ns"]
        if end_ns - begin_ns < SHORTEST_NS:
            continue
        yield Second(
            direction=direction,
            t_ns=begin_ns,
            carried=now["bytes"] - was["bytes"],
            offered=_offered_bytes(changes, begin_ns, end_ns),
            burst=max((c["burst_bytes"] for c in changes), default=0),
            packets=now["packets"] - was["packets"],
            drops=now["drops"] - was["drops"],
            backlog=now["backlog_bytes"],
        )


def _offered_bytes(changes: Sequence[Record], begin_ns: int, end_ns: int) -> int:
    """Integral of the class's rate from one moment to another, by the times of application."""
    bits = 0
    ends = [*(change["t_applied_ns"] for change in changes[1:]), end_ns]
    for change, until_ns in zip(changes, ends, strict=False):
        span_ns = min(until_ns, end_ns) - max(change["t_applied_ns"], begin_ns)
        bits += max(0, span_ns) * change["class_bps"]
    return bits // (8 * 10**9)


def carried_reasons(records: Sequence[Record], cut: Collection[str] = ()) -> list[str]:
    """One line for each direction that carried more than it was set to, or dropped too much.

    In the directions ``cut`` drops were asked for.
    """
    reasons = []
    for direction in sorted({record["direction"] for record in records}):
        seconds = list(seconds_of(records, direction))
        if over := [second for second in seconds if second.exceeds]:
            worst = max(over, key=lambda s: s.carried / max(1, s.offered))
            reasons.append(
                f"link: {direction}: {len(over)} of {len(seconds)} seconds carried more than was "
                f"set, at worst {worst.carried} of {worst.offered} link bytes"
            )
        drops, packets = sum(s.drops for s in seconds), sum(s.packets for s in seconds)
        if direction not in cut and drops > DROP_SHARE * (packets + drops):
            reasons.append(
                f"link: {direction}: the queue dropped {drops} of {packets + drops} packets "
                f"(bound {DROP_SHARE:.0%}); a longer queue, or another congestion control"
            )
    return reasons
