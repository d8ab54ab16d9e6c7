"""From samples to a piecewise-constant trace: how long each one holds, and what fills the gaps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

from testbed.errors import UserError
from testbed.traces.importers.source import BadLine, Gaps
from testbed.traces.trace import SECOND_NS, BandwidthTrace
from testbed.units import format_duration

_MAX_NS = 10**7 * SECOND_NS  # four months: more is a wrong unit of time


@dataclass(frozen=True)
class Segment:
    """Rates, one a direction, that hold from ``start_ns`` to ``end_ns``; ``line`` said so."""

    start_ns: int
    end_ns: int
    rates_bps: tuple[int, ...]
    line: int


class Points:
    """Rates seen at moments: each holds until the next, if that comes soon enough.

    ``step_ns`` is the distance of the moments (None: the median found). A sample stands for at
    most ``reach`` steps: two where clocks jitter, one where the moments are counted. ``merge``
    averages samples of one moment; without it they are refused.
    """

    def __init__(self, step_ns: int | None = None, *, reach: int = 2, merge: bool = False) -> None:
        self._step_ns = step_ns
        self._reach = reach
        self._merge = merge
        self._moments: list[tuple[int, int, list[tuple[int, ...]]]] = []

    def add(self, line: int, t_ns: int, rates_bps: tuple[int, ...] | None) -> None:
        """One sample; None for a moment at which nothing was measured. Raises BadLine."""
        before_ns = self._moments[-1][0] if self._moments else None
        rates = [] if rates_bps is None else [rates_bps]
        if before_ns is not None and t_ns < before_ns + (not self._merge):
            at = f"{(t_ns - before_ns) / SECOND_NS:g} s after the one before"
            raise BadLine("a time after that of the line before", at)
        if t_ns == before_ns:
            self._moments[-1][2].extend(rates)
        else:
            self._moments.append((t_ns, line, rates))

    def segments(self) -> list[Segment]:
        """What each sample stands for, in order; moments without a rate leave a gap."""
        times = [t_ns for t_ns, _, _ in self._moments]
        steps = [after - t_ns for t_ns, after in pairwise(times)]
        step_ns = self._step_ns or (median_low(steps) if steps else SECOND_NS)
        ends = [*times[1:], times[-1] + step_ns] if times else []
        made = []
        for (t_ns, line, rates), end_ns in zip(self._moments, ends, strict=True):
            if end_ns - t_ns > self._reach * step_ns:
                end_ns = t_ns + step_ns
            if rates:
                means = tuple(round(sum(side) / len(side)) for side in zip(*rates, strict=True))
                made.append(Segment(t_ns, end_ns, means, line))
        return made


@dataclass(frozen=True)
class GapCount:
    """Holes between the segments of a file, and what was put there."""

    policy: str
    count: int
    total_ns: int
    longest_ns: int

    def to_json(self) -> dict[str, Any]:
        """As the sidecar keeps it."""
        return dict(vars(self))


def join(
    path: Path, segments: list[Segment], directions: tuple[str, ...], gaps: Gaps, source: str
) -> tuple[BandwidthTrace, GapCount]:
    """One trace from 0 on. A gap holds the rate before it, has rate zero, or is refused.

    Raises UserError where nothing was measured, or at a gap that is to be refused.
    """
    if not segments:
        raise UserError(f"{path}: expected at least one rate, got none")
    first_ns, last_ns = segments[0].start_ns, segments[-1].end_ns
    if last_ns - first_ns > _MAX_NS:
        told = format_duration(last_ns - first_ns)
        raise UserError(f"{path}: expected less than four months, got {told}: a wrong time unit?")
    times: list[int] = []
    rates: list[tuple[int, ...]] = []
    holes: list[int] = []
    end_ns = first_ns
    for segment in segments:
        if segment.start_ns > end_ns:
            holes.append(segment.start_ns - end_ns)
            if gaps == "refuse":
                raise UserError(
                    f"{path}:{segment.line}: expected no gap, got one of "
                    f"{format_duration(holes[-1])} before this line; say --gaps hold or zero"
                )
            if gaps == "zero":
                times.append(end_ns - first_ns)
                rates.append((0,) * len(directions))
        times.append(segment.start_ns - first_ns)
        rates.append(segment.rates_bps)
        end_ns = segment.end_ns
    by_direction = dict(zip(directions, zip(*rates, strict=True), strict=True))
    trace = BandwidthTrace(
        t_ns=tuple(times),
        up_bps=by_direction.get("up"),
        down_bps=by_direction.get("down"),
        duration_ns=last_ns - first_ns,
        source=source,
    )
    return trace, GapCount(gaps, len(holes), sum(holes), max(holes, default=0))
