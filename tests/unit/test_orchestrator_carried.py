"""What a link carried against what it was set to."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.orchestrator.carried import carried_reasons, seconds_of

SECOND_NS = 10**9
MBIT = 10**6


def change(t_s: float, class_bps: int) -> dict[str, Any]:
    t_ns = round(t_s * SECOND_NS)
    return {
        "direction": "uplink",
        "t_applied_ns": t_ns,
        "class_bps": class_bps,
        "burst_bytes": 7570,
    }


def sample(t_s: float, size: int, packets: int = 0, drops: int = 0) -> dict[str, Any]:
    counters = {"bytes": size, "packets": packets, "drops": drops, "backlog_bytes": 0}
    return {"direction": "uplink", "t_ns": round(t_s * SECOND_NS), "sample": counters}


def test_offered_is_the_integral_of_what_was_applied() -> None:
    records = [
        change(0, 8 * MBIT),
        sample(1, 1_000_000),
        change(1.25, 16 * MBIT),
        sample(2, 2_500_000),
        change(2.5, 8 * MBIT),
        sample(3, 3_000_000),
        {**sample(2, 7), "direction": "downlink"},
    ]
    first, second = seconds_of(records, "uplink")
    assert (first.offered, first.carried) == (250_000 + 1_500_000, 1_500_000)
    assert (second.offered, second.carried) == (1_000_000 + 500_000, 500_000)
    assert carried_reasons(records) == []


@pytest.mark.parametrize(
    ("size", "believed"), [(1_000_000, True), (1_037_000, True), (1_040_000, False)]
)
def test_a_second_may_not_carry_more_than_was_set(size: int, believed: bool) -> None:
    records = [change(0, 8 * MBIT), sample(1, 0), sample(2, size)]
    reasons = carried_reasons(records)
    assert (reasons == []) == believed
    assert believed or "uplink: 1 of 1 seconds carried more than was set" in reasons[0]


def test_many_drops_are_a_reason() -> None:
    records = [change(0, 8 * MBIT), sample(1, 0), sample(2, 0, packets=940, drops=60)]
    assert "dropped 60 of 1000 packets" in carried_reasons(records)[0]
    assert carried_reasons(records, cut=["uplink"]) == []  # an outage was asked for
    records[-1] = sample(2, 0, packets=960, drops=40)
    assert carried_reasons(records) == []


def test_no_records_give_no_reason() -> None:
    assert carried_reasons([]) == []
    assert carried_reasons([sample(1, 0), sample(2, 0)]) == []
    assert list(seconds_of([sample(1, 0), sample(1.4, 10**9)], "uplink")) == []
