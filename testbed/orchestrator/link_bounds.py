"""What a link must do to be believed, judged from what the probers measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from testbed.traces.trace import Schedule
from testbed.units import format_rate

RATE_BOUND = 0.03
DELAY_BOUND_NS, DELAY_BOUND_SHARE = 500_000, 0.03
CAPACITY_FACTOR = 1.2
LOSS_CONFIDENCE = 0.999
# Below this a level takes too long to measure to within the bound: 50 packets a second.
LEAST_LEVEL_BPS = 600_000
LEVELS_APART = 20  # a wider span than this is looked at in its middle too


@dataclass(frozen=True)
class Asked:
    """What one direction of the link is asked to do.

    ``loss`` is the mean share of packets lost, ``loss_spread`` how much the variance of their count
    exceeds a binomial's; ``orderly``: each packet comes once, whole and in order.
    """

    levels_bps: tuple[int, ...]
    max_bps: int
    delay_ns: int
    jitter_ns: int
    loss: float
    loss_spread: float
    orderly: bool
    queue_bytes: int


def levels(rates_bps: Iterable[int]) -> tuple[int, ...]:
    """The rates to look at: the lowest, the highest, and their geometric mean in a wide span."""
    rates = sorted(max(rate, LEAST_LEVEL_BPS) for rate in rates_bps)
    low, high = rates[0], rates[-1]
    middle = [round(math.sqrt(low * high))] if high > LEVELS_APART * low else []
    return tuple(dict.fromkeys([low, *middle, high]))


def too_slow_guest(highest_bps: int, carries_bps: int | None) -> str | None:
    """What to say of a user-mode router that is likely too slow for a rate, or None.

    ``carries_bps``: of such a router, None where the link has another.
    """
    if carries_bps is None or CAPACITY_FACTOR * highest_bps < carries_bps:
        return None
    return (
        "the lab's router is user-mode Linux, which on a busy machine carries only about "
        f"{format_rate(carries_bps)}: stay under {format_rate(carries_bps / CAPACITY_FACTOR)}, or "
        "use a machine whose kernel has netem"
    )


def rate_fault(what: str, asked_bps: int, measured_bps: float | None, loss: float) -> str | None:
    """Why a measured rate (IP bytes) is not the rate asked for, or None."""
    if measured_bps is None:
        return f"{what}: too few packets came through to tell the rate"
    least = asked_bps * (1 - loss) * (1 - RATE_BOUND)
    if least <= measured_bps <= asked_bps * (1 + RATE_BOUND):
        return None
    return (
        f"{what}: expected {format_rate(asked_bps)} within {RATE_BOUND:.0%}, got "
        f"{format_rate(measured_bps)} ({measured_bps / asked_bps - 1:+.1%})"
    )


def capacity_fault(
    what: str, max_bps: int, measured_bps: float | None, remedy: str | None = None
) -> str | None:
    """Why the unshaped path cannot carry the highest rate asked for, or None."""
    remedy = remedy or "lower the trace's rates or use a faster network"
    if measured_bps is not None and measured_bps > CAPACITY_FACTOR * max_bps:
        return None
    return (
        f"{what}: the unshaped path must carry {CAPACITY_FACTOR} times the highest rate asked for "
        f"({format_rate(max_bps)}), got {format_rate(measured_bps or 0)}; {remedy}"
    )


def capacity_doubts(schedules: Mapping[str, Mapping[str, Schedule]], carries_bps: int) -> list[str]:
    """One line for each direction of a link that a user-mode router is likely too slow for."""
    doubts = []
    for link, sides in schedules.items():
        for side, schedule in sides.items():
            highest_bps = max(rate for _, rate in schedule.changes)
            if slow := too_slow_guest(highest_bps, carries_bps):
                doubts.append(
                    f"link {link} {side}: up to {format_rate(highest_bps)}: the check before "
                    f"the campaign, which asks for {CAPACITY_FACTOR} times the highest rate, may "
                    f"refuse it; {slow}"
                )
    return doubts


def delay_fault(
    base_ns: Sequence[int], shaped_ns: Sequence[int], asked: Iterable[Asked]
) -> str | None:
    """Why the round trip is not longer by the delays asked for, or None.

    Medians are compared; with jitter the bound also holds 3 standard errors of a median.
    """
    if not base_ns or not shaped_ns:
        return "delay: no ping came back"
    both = tuple(asked)
    wanted_ns = sum(side.delay_ns for side in both)
    added_ns = median(shaped_ns) - median(base_ns)
    spread_ns = math.sqrt(sum(side.jitter_ns**2 for side in both))
    bound_ns = max(DELAY_BOUND_NS, DELAY_BOUND_SHARE * wanted_ns)
    bound_ns += 3 * 1.25 * spread_ns / math.sqrt(len(shaped_ns))
    if abs(added_ns - wanted_ns) <= bound_ns:
        return None
    return (
        f"delay: expected the round trip longer by {wanted_ns / 1e6:.2f} ms within "
        f"{bound_ns / 1e6:.2f} ms, got {added_ns / 1e6:.2f} ms "
        f"({median(base_ns) / 1e6:.2f} to {median(shaped_ns) / 1e6:.2f} ms)"
    )


def loss_fault(what: str, sent: int, arrived: int, loss: float, spread: float = 1.0) -> str | None:
    """Why the packets lost are not what the asked loss explains, or None.

    Losses that come in runs are worth fewer independent ones: ``sent / spread`` of them.
    """
    worth = max(1, round(sent / spread))
    low, high = binomial_interval(worth, loss, LOSS_CONFIDENCE)
    low, high = low * sent // worth, -(-high * sent // worth)
    lost = sent - arrived
    if low <= lost <= high:
        return None
    return f"{what}: expected {low} to {high} of {sent} packets lost ({loss:.2%} asked), got {lost}"


def binomial_interval(n: int, p: float, confidence: float) -> tuple[int, int]:
    """The central interval of a binomial count: each tail holds at most half the rest."""
    if p <= 0:
        return 0, 0
    tail, below, low, high = (1 - confidence) / 2, 0.0, -1, n
    for k in range(n + 1):
        log_term = (
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(p)
            + (n - k) * math.log1p(-p)
        )
        below += math.exp(log_term)
        if low < 0 and below > tail:
            low = k
        if below >= 1 - tail:
            high = k
            break
    return low, high
