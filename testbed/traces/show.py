"""What a bandwidth trace looks like, for programs and for people; printing is the caller's."""

from __future__ import annotations

from typing import Any

from testbed.traces.trace import BandwidthTrace
from testbed.units import format_duration, format_rate

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 60
_PERCENTILES = (5, 25, 50, 75, 95)


def summarise(trace: BandwidthTrace) -> dict[str, Any]:
    """Source, length, and for each direction recorded its rates (weighted by time) and outages."""
    directions = {
        name: _summarise(trace, name)
        for name, rates in (("up", trace.up_bps), ("down", trace.down_bps))
        if rates is not None
    }
    return {
        "source": trace.source,
        "duration_ns": trace.duration_ns,
        "steps": len(trace.t_ns),
        "directions": directions,
    }


def _summarise(trace: BandwidthTrace, direction: str) -> dict[str, int]:
    rates = trace.direction(direction)
    held: dict[int, int] = {}
    gap_ns = longest_gap_ns = 0
    for start, end, rate in trace.spans(direction):
        held[rate] = held.get(rate, 0) + end - start
        gap_ns = gap_ns + end - start if rate == 0 else 0
        longest_gap_ns = max(longest_gap_ns, gap_ns)
    return {
        "mean_bps": trace.means(direction, trace.duration_ns)[0],
        "min_bps": min(rates),
        **{f"p{p}_bps": _percentile(held, p) for p in _PERCENTILES},
        "max_bps": max(rates),
        "longest_gap_ns": longest_gap_ns,
    }


def _percentile(held_ns: dict[int, int], percent: int) -> int:
    """The least rate that at least ``percent`` of the time does not exceed."""
    wanted = sum(held_ns.values()) * percent
    passed = 0
    for rate in sorted(held_ns):
        passed += held_ns[rate] * 100
        if passed >= wanted:
            return rate
    return max(held_ns)


def sparkline(trace: BandwidthTrace, direction: str) -> str:
    """Mean rates in at most 60 columns, from 0 to the greatest of them."""
    means = trace.means(direction, -(-trace.duration_ns // _COLUMNS))
    top = max(means) or 1
    return "".join(_BARS[min(len(_BARS) - 1, mean * len(_BARS) // top)] for mean in means)


def render(trace: BandwidthTrace) -> str:
    """The summary as a few lines for people."""
    summary = summarise(trace)
    lines = [
        f"{summary['source']}",
        f"{format_duration(summary['duration_ns'])} in {summary['steps']} steps",
    ]
    for name, found in summary["directions"].items():
        rates = ", ".join(
            f"{key.removesuffix('_bps')} {format_rate(found[key])}"
            for key in ("mean_bps", "min_bps", "p5_bps", "p50_bps", "p95_bps", "max_bps")
        )
        lines += [
            f"{name:>5} {sparkline(trace, name)}",
            f"{'':5} {rates}; longest gap {format_duration(found['longest_gap_ns'])}",
        ]
    return "\n".join(lines)
