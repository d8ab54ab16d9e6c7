"""The canonical bandwidth trace and the schedule of rates made from it. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from testbed.errors import UserError
from testbed.framing import MTU_BYTES

SECOND_NS = 10**9
MOST_STEPS = 5_000_000  # that a trace is divided into: a day of 20 ms, some 100 MB
_MOST_BPS = 10**15  # more is a wrong unit
End = Literal["loop", "hold", "stop"]


@dataclass(frozen=True)
class BandwidthTrace:
    """What a link offers over time, piecewise constant from 0 to an explicit end.

    ``up_bps[i]`` and ``down_bps[i]`` hold from ``t_ns[i]`` to the next time (the last one to
    ``duration_ns``); rates count IP bytes, and 0 is an outage. A direction that was not recorded
    is None: it is never guessed from the other one.

    Raises UserError for times or rates that make no trace.
    """

    t_ns: tuple[int, ...]
    up_bps: tuple[int, ...] | None
    down_bps: tuple[int, ...] | None
    duration_ns: int
    source: str

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault is not None:
            raise UserError(f"trace {self.source}: {fault}")

    def _fault(self) -> str | None:
        if not self.t_ns or self.t_ns[0] != 0:
            return f"expected times from 0 on, got {self.t_ns[:1] or 'none'}; shift them"
        for before, after in zip(self.t_ns, (*self.t_ns[1:], self.duration_ns), strict=True):
            if after <= before:
                return f"expected rising times and a later end, got {after} after {before} ns"
        if self.up_bps is None and self.down_bps is None:
            return "expected rates of at least one direction, got none"
        for name, rates in (("up", self.up_bps), ("down", self.down_bps)):
            if rates is not None and (len(rates) != len(self.t_ns) or min(rates) < 0):
                return f"{name}: expected {len(self.t_ns)} rates of 0 or more, one a time"
            if rates is not None and max(rates) > _MOST_BPS:
                return f"{name}: expected rates up to {_MOST_BPS} bit/s, got {max(rates):.3g}"
        return None

    @property
    def directions(self) -> tuple[str, ...]:
        """Which of ``up`` and ``down`` were recorded."""
        sides = (("up", self.up_bps), ("down", self.down_bps))
        return tuple(name for name, rates in sides if rates is not None)

    def direction(self, name: str) -> tuple[int, ...]:
        """Rates of ``up`` or ``down``; raises UserError where the trace does not have it."""
        rates = {"up": self.up_bps, "down": self.down_bps}.get(name)
        if rates is None:
            raise UserError(
                f"trace {self.source}: no direction {name!r}; it has "
                f"{' and '.join(self.directions)}: a link's 'direction: as-uplink' or "
                "'as-downlink' takes the other one on purpose; or use another trace"
            )
        return rates

    def spans(self, direction: str) -> Iterator[tuple[int, int, int]]:
        """Each step of a direction as ``(start_ns, end_ns, rate_bps)``."""
        ends = (*self.t_ns[1:], self.duration_ns)
        return zip(self.t_ns, ends, self.direction(direction), strict=True)

    def means(self, direction: str, step_ns: int) -> tuple[int, ...]:
        """Time-weighted mean rate of each bin of ``step_ns``; the last bin may be shorter."""
        if step_ns <= 0:
            raise UserError(f"trace {self.source}: step: expected more than 0 ns, got {step_ns}")
        if self.duration_ns > step_ns * MOST_STEPS:
            raise UserError(
                f"trace {self.source}: expected at most {MOST_STEPS} steps, got "
                f"{self.duration_ns / 1e9:g} s in steps of {step_ns / 1e9:g} s; take longer steps"
            )
        bits_ns = [0] * -(-self.duration_ns // step_ns)  # bit/s times ns, exact in integers
        for start, end, rate in self.spans(direction):
            while start < end:
                bin_index = start // step_ns
                cut = min(end, (bin_index + 1) * step_ns)
                bits_ns[bin_index] += rate * (cut - start)
                start = cut
        return tuple(
            round(total / min(step_ns, self.duration_ns - i * step_ns))
            for i, total in enumerate(bits_ns)
        )

    def schedule(
        self,
        direction: str,
        step_ns: int,
        *,
        end: End = "loop",
        floor_bps: int | None = None,
        outage: bool = False,
    ) -> Schedule:
        """One direction on a grid of ``step_ns``: bytes conserved, equal neighbours merged.

        Rates below ``floor_bps`` are raised to it, and how long is told in the schedule. By
        default the floor is one packet a step: HTB charges a packet in time at the old rate, so
        that a step up from a lower rate would come into force later than the step after it.

        With ``outage``, whole steps without any capacity are told apart from the floor: what
        applies the schedule stops the link in them, so that they do not count as floored.
        """
        rates = self.means(direction, step_ns)
        if floor_bps is None:
            floor_bps = -(-MTU_BYTES * 8 * SECOND_NS // step_ns)
        changes: list[tuple[int, int]] = []
        outages: list[tuple[int, int]] = []
        floored_ns = 0
        for i, rate in enumerate(rates):
            t_ns, width_ns = i * step_ns, min(step_ns, self.duration_ns - i * step_ns)
            if outage and rate == 0 and (width_ns == step_ns or _touches(outages, t_ns)):
                _lengthen(outages, t_ns, width_ns)
            elif rate < floor_bps:
                floored_ns += width_ns
            rate = max(rate, floor_bps)
            if not changes or changes[-1][1] != rate:
                changes.append((t_ns, rate))
        return Schedule(
            tuple(changes), self.duration_ns, end, floor_bps, floored_ns, outages=tuple(outages)
        )


def _touches(outages: list[tuple[int, int]], t_ns: int) -> bool:
    return bool(outages) and sum(outages[-1]) == t_ns


def _lengthen(outages: list[tuple[int, int]], t_ns: int, length_ns: int) -> None:
    """Add an outage, as one with the last where they touch."""
    if _touches(outages, t_ns):
        start_ns, before_ns = outages.pop()
        t_ns, length_ns = start_ns, before_ns + length_ns
    outages.append((t_ns, length_ns))


@dataclass(frozen=True)
class Schedule:
    """Planned changes ``(t_ns, rate_bps)`` of one direction, the first at 0, and what comes after.

    ``floored_ns`` is how long the trace offered less than ``floor_bps`` and got ``floor_bps``.
    ``outages`` are stretches ``(t_ns, length_ns)`` in which nothing may pass, whatever the rate
    says. ``used_as`` tells that the trace was measured in the other direction.
    """

    changes: tuple[tuple[int, int], ...]
    duration_ns: int
    end: End
    floor_bps: int
    floored_ns: int
    outages: tuple[tuple[int, int], ...] = ()
    used_as: str | None = None

    @classmethod
    def constant(cls, rate_bps: int, end: End = "hold", duration_ns: int = SECOND_NS) -> Schedule:
        """A rate that never changes."""
        return cls(((0, rate_bps),), duration_ns, end, rate_bps, 0)

    def with_outages(self, planned: Iterable[tuple[int, int]]) -> Schedule:
        """The schedule with further outages ``(t_ns, length_ns)``; those that touch are one.

        Raises UserError for one that does not end within the schedule.
        """
        merged: list[tuple[int, int]] = []
        for t_ns, length_ns in sorted([*self.outages, *planned]):
            if t_ns + length_ns > self.duration_ns:
                raise UserError(
                    f"outages: expected all within the schedule's {self.duration_ns / 1e9:g} s, "
                    f"got one from {t_ns / 1e9:g} to {(t_ns + length_ns) / 1e9:g} s"
                )
            if merged and t_ns <= sum(merged[-1]):
                begun_ns, before_ns = merged.pop()
                length_ns = max(begun_ns + before_ns, t_ns + length_ns) - begun_ns
                t_ns = begun_ns
            merged.append((t_ns, length_ns))
        return replace(self, outages=tuple(merged))

    def rate_at(self, t_ns: int) -> int | None:
        """The rate planned for a time since the start; None once a ``stop`` schedule is over."""
        if t_ns >= self.duration_ns:
            if self.end == "stop":
                return None
            t_ns = t_ns % self.duration_ns if self.end == "loop" else self.duration_ns - 1
        return self.changes[bisect_right(self.changes, t_ns, key=lambda c: c[0]) - 1][1]
