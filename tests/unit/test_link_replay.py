"""Pacing under a clock of our own: lateness, ends, interruption."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import UserError
from testbed.link.replay import (
    NEAR_NS,
    Change,
    Event,
    Hold,
    Sample,
    Schedule,
    moments,
    owed,
    replay,
    schedule_from_json,
    timeline,
)
from testbed.link.role import percentile_99_ns

MS = 10**6
NEVER_NS = 10**18


class Clock:
    """Time that passes only while somebody waits, or where a test says so."""

    def __init__(self, stop_at_ns: int | None = None) -> None:
        self.t_ns = 0
        self.stop_at_ns = stop_at_ns

    def now_ns(self) -> int:
        return self.t_ns

    def wait(self, seconds: float) -> bool:
        until_ns = self.t_ns + round(seconds * 1e9)
        if self.stop_at_ns is not None and until_ns >= self.stop_at_ns:
            self.t_ns = max(self.t_ns, self.stop_at_ns)
            return True
        self.t_ns = until_ns
        return False


def planned(events: list[Event]) -> list[tuple[int, str, int]]:
    return [(e.t_ns // MS, e.direction, e.rate_bps) for e in events if isinstance(e, Change)]


def steps(end: str) -> Schedule:
    return Schedule(((0, 100), (30 * MS, 200)), 50 * MS, end)


def test_loop_repeats_after_the_duration_not_after_the_last_change() -> None:
    events = list(islice(timeline({"uplink": steps("loop")}, NEVER_NS), 5))
    assert planned(events) == [
        (0, "uplink", 100),
        (30, "uplink", 200),
        (50, "uplink", 100),
        (80, "uplink", 200),
        (100, "uplink", 100),
    ]
    assert [e.n for e in events if isinstance(e, Change)] == [0, 1, 2, 3, 4]


def test_hold_goes_on_sampling_and_stop_does_not() -> None:
    held = list(islice(timeline({"uplink": steps("hold")}, 20 * MS), 8))
    assert [e.t_ns // MS for e in held if isinstance(e, Sample)] == [20, 40, 60, 80, 100, 120]
    stopped = list(timeline({"uplink": steps("stop")}, 20 * MS))
    assert [e.t_ns // MS for e in stopped if isinstance(e, Sample)] == [20, 40]
    assert planned(stopped) == planned(held) == [(0, "uplink", 100), (30, "uplink", 200)]


def test_directions_share_one_time_line_and_changes_precede_samples() -> None:
    schedules = {
        "uplink": steps("stop"),
        "downlink": Schedule(((0, 7), (10 * MS, 8)), 50 * MS, "stop"),
    }
    events = list(timeline(schedules, 30 * MS))
    assert [(e.t_ns // MS, e.direction, type(e)) for e in events] == [
        (0, "uplink", Change),
        (0, "downlink", Change),
        (10, "downlink", Change),
        (30, "uplink", Change),
        (30, "uplink", Sample),
        (30, "downlink", Sample),
    ]


def test_lateness_does_not_accumulate() -> None:
    clock = Clock()
    late_ns = []
    for event in islice(
        replay(timeline({"u": steps("loop")}, NEVER_NS), 0, clock.now_ns, clock.wait), 6
    ):
        late_ns.append(clock.t_ns - event.t_ns)
        if len(late_ns) == 2:
            clock.t_ns += 65 * MS  # the machine was taken away in the middle of the second change
    # Due at 0, 30, 50, 80, 100, 130 ms; back at 95 ms: two come late, the next is on time again.
    assert late_ns == [0, 0, 45 * MS, 15 * MS, 0, 0]


def test_what_is_due_together_is_prepared_ahead_and_in_order() -> None:
    clock, prepared_ns = Clock(), []

    def prepare(event: Event) -> Callable[[], int]:
        prepared_ns.append(clock.t_ns)
        return clock.now_ns

    schedules = {"u": steps("stop"), "d": steps("stop")}
    due = moments(timeline(schedules, NEVER_NS), prepare)
    acted = [
        (moment.t_ns // MS, [(event.direction, act()) for event, act in moment.planned])
        for moment in replay(due, 0, clock.now_ns, clock.wait)
    ]
    assert acted == [(0, [("u", 0), ("d", 0)]), (30, [("u", 30 * MS), ("d", 30 * MS)])]
    assert prepared_ns == [0, 0, 0, 0]


def test_no_event_comes_before_its_time_when_the_wait_ends_early() -> None:
    clock = Clock()
    events = replay(
        timeline({"u": steps("stop")}, NEVER_NS),
        0,
        clock.now_ns,
        lambda s: clock.wait(s / 2 + 1e-9),
    )
    assert all(clock.t_ns >= event.t_ns for event in events)
    assert clock.t_ns >= 30 * MS


def test_stopping_cuts_the_wait_short() -> None:
    clock = Clock(stop_at_ns=40 * MS)
    events = list(replay(timeline({"u": steps("loop")}, NEVER_NS), 0, clock.now_ns, clock.wait))
    assert planned(events) == [(0, "u", 100), (30, "u", 200)]
    assert clock.t_ns == 40 * MS


def test_stopping_is_seen_by_a_replay_that_has_fallen_behind() -> None:
    clock = Clock(stop_at_ns=35 * MS)
    clock.t_ns = 10**9
    assert not list(replay(timeline({"u": steps("loop")}, NEVER_NS), 0, clock.now_ns, clock.wait))


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"changes": [], "duration_ns": 1, "end": "loop"}, "the first at 0 ns"),
        ({"changes": [[5, 1]], "duration_ns": 9, "end": "loop"}, "the first at 0 ns"),
        ({"changes": [[0, 1], [9, 1], [5, 1]], "duration_ns": 99, "end": "loop"}, "rising"),
        ({"changes": [[0, 1], [9, 1]], "duration_ns": 9, "end": "loop"}, "after its last change"),
        ({"changes": [[0, 1]], "duration_ns": 9, "end": "again"}, "loop, hold, stop"),
    ],
)
def test_faulty_schedules_are_refused(document: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        schedule_from_json(document)


def test_percentile_is_a_value_that_was_measured() -> None:
    assert percentile_99_ns([]) is None
    assert percentile_99_ns([7]) == 7
    assert percentile_99_ns(list(range(1, 101))) == 99
    assert percentile_99_ns(list(range(1, 102))) == 100


def test_an_outage_takes_the_changes_in_it_and_ends_at_the_rate_of_its_end() -> None:
    changes = ((0, 100), (10 * MS, 200), (20 * MS, 300), (50 * MS, 400))
    schedule = Schedule(changes, 80 * MS, "hold", ((10 * MS, 20 * MS), (50 * MS, 30 * MS)))
    assert schedule.steps() == (
        (0, 100, 0),
        (10 * MS, 0, 20 * MS),
        (30 * MS, 300, 0),
        (50 * MS, 0, 30 * MS),
    )
    events = list(islice(timeline({"u": schedule}, NEVER_NS), 8))
    # One that reaches the end of the schedule is over there.
    assert [(e.t_ns // MS, e.rate_bps) for e in events if isinstance(e, Change)] == [
        (0, 100),
        (10, 0),
        (30, 300),
        (50, 0),
        (80, 400),
    ]


def test_a_long_outage_is_said_again_with_what_is_owed() -> None:
    schedule = Schedule(((0, 100),), 500 * MS, "loop", ((100 * MS, 200 * MS),))
    events = islice(timeline({"u": schedule}, NEVER_NS), 22)
    holds = [(e.t_ns // MS, e.owed_ns // MS) for e in events if isinstance(e, Hold)]
    far, near = [(110, 140), (150, 100), (200, 50)], [(200 + t, 100 - t) for t in (50, 60, 70, 80)]
    once = [*far, *near, (290, 10)]
    assert holds == once + [(t + 500, owes) for t, owes in once]


@given(length_ns=st.integers(1, 2 * 10**9), share=st.floats(0, 1, exclude_max=True))
def test_however_late_a_packet_passes_in_an_outage_its_end_is_kept(
    length_ns: int, share: float
) -> None:
    said, passed_ns, passed = list(owed(length_ns)), int(share * length_ns), 0
    while passed_ns < length_ns:  # the next one passes as soon as nothing is owed
        passed_ns += next(owes for at_ns, owes in reversed(said) if at_ns <= passed_ns)
        passed += 1
    assert passed_ns - length_ns <= NEAR_NS
    assert passed <= 2 if share else passed == 1


def test_outages_that_overlap_or_outlast_the_schedule_are_refused() -> None:
    for outages in (((0, 20), (10, 20)), ((90, 20),), ((10, 0),)):
        with pytest.raises(UserError, match="expected outages in order and within 100 ns"):
            Schedule(((0, 1),), 100, "loop", outages)


def test_before_the_start_the_rate_is_one_outside_of_outages() -> None:
    changes = ((0, 121_000), (2 * 1000 * MS, 10**7), (4 * 1000 * MS, 10**6))
    assert Schedule(changes, 6 * 1000 * MS, "loop").first_bps == 121_000
    assert Schedule(changes, 6 * 1000 * MS, "loop", ((0, 2 * 1000 * MS),)).first_bps == 10**7
    assert Schedule(changes, 6 * 1000 * MS, "loop", ((0, 3 * 1000 * MS),)).first_bps == 10**7
    assert Schedule(changes, 6 * 1000 * MS, "loop", ((0, 6 * 1000 * MS),)).first_bps == 121_000
