"""What a link must do to be believed."""

from __future__ import annotations

import pytest

from testbed.orchestrator.link_bounds import (
    LEAST_LEVEL_BPS,
    Asked,
    binomial_interval,
    capacity_doubts,
    capacity_fault,
    delay_fault,
    levels,
    loss_fault,
    rate_fault,
)
from testbed.traces.trace import Schedule

MBIT, MS = 10**6, 10**6


def asked(delay_ns: int = 0, jitter_ns: int = 0, loss: float = 0.0) -> Asked:
    return Asked((MBIT,), MBIT, delay_ns, jitter_ns, loss, 1.0, loss == 0, 256_000)


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ([40 * MBIT], (40 * MBIT,)),
        ([10 * MBIT, 2 * MBIT, 4 * MBIT], (2 * MBIT, 10 * MBIT)),
        ([100 * MBIT, MBIT], (MBIT, 10 * MBIT, 100 * MBIT)),
        ([8_000], (LEAST_LEVEL_BPS,)),
    ],
)
def test_levels_span_the_rates(rates: list[int], found: tuple[int, ...]) -> None:
    assert levels(rates) == found


@pytest.mark.parametrize(
    ("measured", "loss", "believed"),
    [
        (10 * MBIT, 0.0, True),
        (9.71 * MBIT, 0.0, True),
        (9.69 * MBIT, 0.0, False),
        (10.31 * MBIT, 0.0, False),
        (9.0 * MBIT, 0.1, True),
        (8.7 * MBIT, 0.1, False),
        (None, 0.0, False),
    ],
)
def test_a_rate_is_believed_within_three_percent(measured, loss, believed) -> None:
    fault = rate_fault("uplink, UDP", 10 * MBIT, measured, loss)
    assert (fault is None) == believed
    assert believed or "uplink, UDP" in fault


def test_capacity_must_leave_room_above_the_highest_rate() -> None:
    assert capacity_fault("uplink", 100 * MBIT, 121 * MBIT) is None
    assert "got 119 Mbit/s" in capacity_fault("uplink", 100 * MBIT, 119 * MBIT)
    assert capacity_fault("uplink", 100 * MBIT, None)


@pytest.mark.parametrize(
    ("shaped_ms", "sides", "believed"),
    [
        (0.4, [asked(), asked()], True),
        (0.9, [asked(), asked()], False),
        (40.2, [asked(20 * MS), asked(20 * MS)], True),
        (41.2, [asked(20 * MS), asked(20 * MS)], True),
        (41.5, [asked(20 * MS), asked(20 * MS)], False),
        (20.3, [asked(20 * MS), asked(20 * MS)], False),  # one direction has no delay
        (42.5, [asked(20 * MS, 5 * MS), asked(20 * MS, 5 * MS)], True),
    ],
)
def test_the_round_trip_grows_by_the_delays(shaped_ms, sides, believed) -> None:
    base = [200_000] * 60
    fault = delay_fault(base, [round(shaped_ms * MS)] * 60, sides)
    assert (fault is None) == believed


def test_no_ping_back_is_a_fault() -> None:
    assert delay_fault([], [1], [asked()]) == "delay: no ping came back"
    assert delay_fault([1], [], [asked()]) == "delay: no ping came back"


def test_the_binomial_interval_is_the_tables_own() -> None:
    # scipy.stats.binom.interval(0.95, 1000, 0.02) and (0.999, 100, 0.5)
    assert binomial_interval(1000, 0.02, 0.95) == (12, 29)
    assert binomial_interval(100, 0.5, 0.999) == (34, 66)
    assert binomial_interval(1000, 0.0, 0.999) == (0, 0)


def test_loss_is_judged_by_its_interval() -> None:
    assert loss_fault("uplink", 1000, 980, 0.02) is None
    assert "expected 7 to 36 of 1000" in loss_fault("uplink", 1000, 1000, 0.02)
    assert loss_fault("uplink", 60, 60, 0.0) is None
    assert loss_fault("uplink", 60, 59, 0.0)


def test_losses_that_come_in_runs_may_spread_further() -> None:
    assert loss_fault("uplink", 1000, 940, 0.02) is not None
    assert loss_fault("uplink", 1000, 940, 0.02, spread=9.0) is None


def test_a_user_mode_router_is_doubted_beyond_what_it_carries() -> None:
    schedules = {"far": {"uplink": Schedule.constant(60 * 10**6), "downlink": Schedule.constant(1)}}
    (doubt,) = capacity_doubts(schedules, 67 * 10**6)
    assert doubt.startswith("link far uplink: up to 60 Mbit/s")
    assert "carries only about 67 Mbit/s" in doubt
    assert "stay under 55.8 Mbit/s" in doubt
    assert capacity_doubts(schedules, 73 * 10**6) == []
