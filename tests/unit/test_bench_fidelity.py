"""The arithmetic of the link's bench on arrivals that are known."""

from __future__ import annotations

import pytest

from testbed.errors import UserError
from testbed.traces.trace import SECOND_NS, BandwidthTrace, Schedule
from tests.bench.fidelity_bins import STEP_NS, binned, cut, judged, percentile
from tests.bench.outage_ends import late_ms

PACKET_BITS, MBIT = 12_000, 10**6


def a_trace(*packets_a_step: int) -> BandwidthTrace:
    """A trace that offers so many packets in each step."""
    rates = tuple(n * PACKET_BITS * SECOND_NS // STEP_NS for n in packets_a_step)
    times = tuple(i * STEP_NS for i in range(len(rates)))
    return BandwidthTrace(times, rates, None, len(rates) * STEP_NS, "made")


def arrivals(t0_ns: int, *packets_a_step: int) -> list[int]:
    return [
        t0_ns + step * STEP_NS + i * STEP_NS // n
        for step, n in enumerate(packets_a_step)
        for i in range(n)
    ]


def test_a_perfect_link_has_no_error_and_what_is_outside_does_not_count() -> None:
    offered = [10, 20, 0, 30, 10, 20, 40, 30, 10, 20]
    t0_ns = 5_000
    seen = [t0_ns - 1, *arrivals(t0_ns, *offered), t0_ns + SECOND_NS]
    found = judged(a_trace(*offered), seen, t0_ns)
    assert found["error_100ms"] == found["error_1s"] == found["idle_bps_100ms"] == 0
    assert found["correlation_100ms"] == pytest.approx(1)
    assert binned(seen, t0_ns, 1, SECOND_NS) == [sum(offered) * PACKET_BITS]


def test_errors_are_means_over_bins_with_capacity_and_the_others_are_apart() -> None:
    offered, carried = [10, 0, 20, 10, 10, 10, 10, 10, 10, 10], [11, 2, 16, *[10] * 7]
    found = judged(a_trace(*offered), arrivals(0, *carried), 0)
    assert found["error_100ms"] == pytest.approx((0.1 + 0.2) / 9)
    assert found["error_1s"] == pytest.approx(0.01)
    assert found["idle_bps_100ms"] == 2 * PACKET_BITS * 10


def test_a_cut_is_whole_steps_of_the_direction_there_is() -> None:
    up = a_trace(1, 2, 3, 4)
    down = BandwidthTrace(up.t_ns, None, up.up_bps, up.duration_ns, "down")
    for trace in (up, down):
        assert cut(trace, STEP_NS, 2 * STEP_NS + 5).up_bps == up.direction("up")[1:3]
    with pytest.raises(UserError, match="begin earlier"):
        cut(up, 4 * STEP_NS, STEP_NS)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([3.0], 0.99) == 3


def test_an_outages_end_is_the_first_packet_after_its_middle() -> None:
    ms = 1_000_000
    schedule = Schedule.constant(MBIT, "stop", 1000 * ms).with_outages(
        [(100 * ms, 200 * ms), (600 * ms, 100 * ms)]
    )
    t0_ns = 5_000
    # One packet leaks at the beginning of the first outage; the second ends 2 ms too soon.
    seen = [90, 99, 101, 303, 304, 598, 698, 699, 950]
    assert late_ms(schedule, [t0_ns + t * ms for t in seen], t0_ns) == [3, -2]
    with pytest.raises(ValueError, match=r"after the outage at 0\.6 s"):
        late_ms(schedule, [t0_ns + t * ms for t in seen[:5]], t0_ns)
