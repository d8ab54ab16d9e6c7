from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import UserError
from testbed.traces.trace import BandwidthTrace, Schedule

S, MS = 10**9, 10**6


def up(t_ns: tuple[int, ...], rates: tuple[int, ...], duration_ns: int) -> BandwidthTrace:
    return BandwidthTrace(t_ns, rates, None, duration_ns, "test")


@st.composite
def traces(draw: st.DrawFn) -> BandwidthTrace:
    widths = draw(st.lists(st.integers(1, 3 * S), min_size=1, max_size=20))
    rates = draw(
        st.lists(st.integers(0, 10**9), min_size=len(widths), max_size=len(widths)).map(tuple)
    )
    t_ns = tuple(sum(widths[:i]) for i in range(len(widths)))
    return up(t_ns, rates, sum(widths))


@pytest.mark.parametrize(
    ("t_ns", "rates", "duration_ns", "said"),
    [
        ((), (), S, "from 0 on"),
        ((5,), (1,), S, "from 0 on"),
        ((0, 2, 2), (1, 1, 1), S, "rising"),
        ((0, S), (1, 1), S, "later end"),
        ((0,), (-1,), S, "0 or more"),
        ((0,), (1, 2), S, "expected 1 rates"),
        ((0,), None, S, "at least one direction"),
    ],
)
def test_what_is_no_trace_is_refused_by_name(t_ns, rates, duration_ns, said) -> None:
    with pytest.raises(UserError, match=f"trace here: .*{said}"):
        BandwidthTrace(t_ns, rates, None, duration_ns, "here")


def test_a_direction_is_never_guessed() -> None:
    trace = up((0,), (7,), S)
    assert trace.direction("up") == (7,)
    with pytest.raises(UserError, match=r"trace test: no direction 'down'; it has up"):
        trace.direction("down")
    with pytest.raises(UserError, match="no direction 'uplink'"):
        trace.schedule("uplink", S)


def test_resampling_weighs_by_time_and_the_last_bin_is_shorter() -> None:
    trace = up((0, 150 * MS), (1_000_000, 3_000_000), 250 * MS)
    assert trace.means("up", 100 * MS) == (1_000_000, 2_000_000, 3_000_000)
    trace = up((0, 220 * MS), (1_000_000, 9_000_000), 230 * MS)
    assert trace.means("up", 100 * MS)[-1] == 3_666_667  # 20 ms of 1, 10 ms of 9


@given(traces(), st.integers(10 * MS, 5 * S))
def test_resampling_conserves_bytes(trace, step_ns) -> None:
    offered = sum(rate * (end - start) for start, end, rate in trace.spans("up"))
    means = trace.means("up", step_ns)
    widths = [min(step_ns, trace.duration_ns - i * step_ns) for i in range(len(means))]
    assert min(widths) > 0
    assert sum(widths) == trace.duration_ns
    given_out = sum(m * w for m, w in zip(means, widths, strict=True))
    assert abs(given_out - offered) <= trace.duration_ns / 2  # half a bit/s of rounding a bin


@given(traces(), st.integers(10 * MS, 5 * S))
def test_schedule_follows_the_means_above_its_floor(trace, step_ns) -> None:
    schedule = trace.schedule("up", step_ns)
    assert schedule.changes[0][0] == 0
    assert all(a[1] != b[1] for a, b in zip(schedule.changes, schedule.changes[1:], strict=False))
    floored_ns = 0
    for i, mean in enumerate(trace.means("up", step_ns)):
        assert schedule.rate_at(i * step_ns) == max(mean, schedule.floor_bps)
        if mean < schedule.floor_bps:
            floored_ns += min(step_ns, trace.duration_ns - i * step_ns)
    assert schedule.floored_ns == floored_ns


def test_floor_is_one_packet_a_step_and_its_time_is_told() -> None:
    trace = up((0, 300 * MS), (0, 5_000_000), 450 * MS)
    schedule = trace.schedule("up", 100 * MS)
    assert schedule.floor_bps == 120_000
    assert schedule.changes == ((0, 120_000), (300 * MS, 5_000_000))
    assert schedule.floored_ns == 300 * MS
    assert trace.schedule("up", 100 * MS, floor_bps=1_000).changes[0] == (0, 1_000)


@pytest.mark.parametrize(
    ("end", "after", "later"), [("loop", 1, 2), ("hold", 2, 2), ("stop", None, None)]
)
def test_what_comes_after_the_end(end, after, later) -> None:
    schedule = Schedule(((0, 1), (100, 2)), 200, end, 0, 0)
    assert [schedule.rate_at(t) for t in (0, 99, 100, 199)] == [1, 1, 2, 2]
    assert (schedule.rate_at(200), schedule.rate_at(399)) == (after, later)


def test_constant_schedule_never_changes() -> None:
    schedule = Schedule.constant(5)
    assert {schedule.rate_at(t) for t in (0, S, 100 * S)} == {5}


def test_step_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="step"):
        up((0,), (1,), S).means("up", 0)


def test_planned_outages_join_those_of_the_trace() -> None:
    schedule = up((0, S, 2 * S), (10**7, 0, 10**7), 10 * S).schedule("up", 100 * MS, outage=True)
    assert schedule.outages == ((S, S),)
    joined = schedule.with_outages([(5 * S, S), (2 * S, 500 * MS), (5 * S + 500 * MS, 2 * S)])
    assert joined.outages == ((S, 1500 * MS), (5 * S, 2500 * MS))
    with pytest.raises(UserError, match="within the schedule's 10 s, got one from 9 to 11 s"):
        schedule.with_outages([(9 * S, 2 * S)])
    lasting = Schedule.constant(10**7, duration_ns=12 * S).with_outages([(3 * S, 5 * S)])
    assert lasting.outages == ((3 * S, 5 * S),)
