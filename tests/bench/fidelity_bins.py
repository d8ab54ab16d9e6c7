"""What a link carried in each bin of a replay, against what its trace offers. Pure."""

from __future__ import annotations

from statistics import correlation, fmean
from typing import Any

from testbed.errors import UserError
from testbed.framing import MTU_BYTES
from testbed.traces.trace import SECOND_NS, BandwidthTrace

STEP_NS = 100_000_000
Found = dict[str, Any]


def cut(trace: BandwidthTrace, begin_ns: int, length_ns: int) -> BandwidthTrace:
    """A stretch of a trace's uplink in whole steps; the trace's direction, whichever it has."""
    direction = "up" if trace.up_bps is not None else "down"
    first, count = begin_ns // STEP_NS, length_ns // STEP_NS
    whole = trace.means(direction, STEP_NS)[: trace.duration_ns // STEP_NS]
    rates = whole[first : first + count]
    if not rates:
        raise UserError(f"{trace.source}: lasts {trace.duration_ns / 1e9:g} s; begin earlier")
    times = tuple(i * STEP_NS for i in range(len(rates)))
    return BandwidthTrace(times, rates, None, len(rates) * STEP_NS, trace.source)


def binned(arrivals_ns: list[int], t0_ns: int, bins: int, width_ns: int) -> list[float]:
    """Throughput in bit/s of IP bytes in each bin since the start."""
    counts = [0] * bins
    for t_ns in arrivals_ns:
        place = (t_ns - t0_ns) // width_ns
        if 0 <= place < bins:
            counts[place] += 1
    return [count * MTU_BYTES * 8 * SECOND_NS / width_ns for count in counts]


def against(capacity: list[float], carried: list[float]) -> tuple[float, float, float]:
    """Mean error of bins with capacity as a share of it, correlation, and bit/s in the others."""
    pairs = [(c, got) for c, got in zip(capacity, carried, strict=True) if c > 0]
    idle = [got for c, got in zip(capacity, carried, strict=True) if c == 0]
    error = fmean(abs(got / c - 1) for c, got in pairs)
    r = correlation(*zip(*pairs, strict=True)) if len({c for c, _ in pairs}) > 1 else 1.0
    return error, r, fmean(idle) if idle else 0.0


def judged(trace: BandwidthTrace, arrivals_ns: list[int], t0_ns: int) -> Found:
    """Errors in bins of 1 s and of one step."""
    found: Found = {}
    for name, width_ns in (("100ms", STEP_NS), ("1s", SECOND_NS)):
        bins = trace.duration_ns // width_ns
        capacity = [float(rate) for rate in trace.means("up", width_ns)[:bins]]
        carried = binned(arrivals_ns, t0_ns, bins, width_ns)
        error, r, idle_bps = against(capacity, carried)
        found |= {f"error_{name}": error, f"correlation_{name}": r, f"idle_bps_{name}": idle_bps}
        found |= {f"capacity_bps_{name}": capacity, f"carried_bps_{name}": carried}
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(0, -(-round(len(values) * share * 100) // 100) - 1)]
