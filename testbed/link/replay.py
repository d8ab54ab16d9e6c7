"""Pace rate changes and counter samples on absolute monotonic deadlines.

A late event is yielded late and the next one keeps its own deadline: lateness is recorded,
never accumulated.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, groupby, islice
from operator import attrgetter
from typing import Any, TypeVar

from testbed.errors import UserError

ENDS = ("loop", "hold", "stop")
# How often an outage says how long it lasts: at both ends more often. Once costs 1-2 ms.
FAR_NS, NEAR_NS = 50_000_000, 10_000_000


@dataclass(frozen=True)
class Schedule:
    """One direction's rates over time.

    Attributes:
        changes: (time since the start in ns, rate in bit/s of IP bytes), the first at 0, rising.
        duration_ns: length of the trace, after its last change.
        end: what follows: ``loop`` from the start, ``hold`` the last rate, or ``stop``: nothing
            more is changed or sampled.
        outages: (time, length) of stretches in which nothing passes, whatever the rate.
    """

    changes: tuple[tuple[int, int], ...]
    duration_ns: int
    end: str
    outages: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        times = [t_ns for t_ns, _ in self.changes]
        if not times or times[0] != 0 or sorted(set(times)) != times:
            raise UserError("schedule: expected changes, the first at 0 ns, at rising times")
        if self.duration_ns <= times[-1]:
            raise UserError(
                f"schedule: expected a duration after its last change at {times[-1]} ns, got "
                f"{self.duration_ns} ns"
            )
        if self.end not in ENDS:
            raise UserError(f"schedule: end: expected {', '.join(ENDS)}, got {self.end!r}")
        over_ns = 0
        for t_ns, length_ns in self.outages:
            if t_ns < over_ns or length_ns <= 0 or t_ns + length_ns > self.duration_ns:
                raise UserError(
                    f"schedule: expected outages in order and within {self.duration_ns} ns, got "
                    f"one of {length_ns} ns at {t_ns} ns"
                )
            over_ns = t_ns + length_ns

    def rate_at(self, t_ns: int) -> int:
        """The rate in force at a time within the duration, outages apart."""
        return [rate_bps for begun_ns, rate_bps in self.changes if begun_ns <= t_ns][-1]

    @property
    def first_bps(self) -> int:
        """The rate before the start: the first that is in force outside of outages.

        Queries of the warm-up cross then, and an outage is not there yet.
        """
        flowing = [rate_bps for _, rate_bps, outage_ns in self.steps() if not outage_ns]
        return flowing[0] if flowing else self.changes[0][1]

    def steps(self) -> tuple[tuple[int, int, int], ...]:
        """Changes as (time, rate, length of outage): a rate of 0 for as long as an outage lasts.

        Changes within an outage are left out; at its end comes the rate of that moment.
        """
        steps = [
            (t_ns, rate_bps, 0)
            for t_ns, rate_bps in self.changes
            if not any(begun <= t_ns < begun + length for begun, length in self.outages)
        ]
        for t_ns, length_ns in self.outages:
            steps.append((t_ns, 0, length_ns))
            end_ns = t_ns + length_ns
            follows = any(begun == end_ns for begun, _, _ in steps) or any(
                begun == end_ns for begun, _ in self.outages
            )
            if end_ns < self.duration_ns and not follows:
                steps.append((end_ns, self.rate_at(end_ns), 0))
        return tuple(sorted(steps))

    @property
    def end_ns(self) -> int | None:
        """When the replay of this direction is over, or None where it goes on until told."""
        return self.duration_ns if self.end == "stop" else None


def schedule_from_json(document: Mapping[str, Any]) -> Schedule:
    """A schedule from ``{"changes": [[t_ns, rate_bps], …], "duration_ns", "end", "outages"}``."""
    changes = tuple((t_ns, rate_bps) for t_ns, rate_bps in document["changes"])
    outages = tuple((t_ns, length_ns) for t_ns, length_ns in document.get("outages", ()))
    return Schedule(changes, document["duration_ns"], document["end"], outages)


@dataclass(frozen=True)
class Change:
    """The n-th change of one direction's rate, due ``t_ns`` after the start.

    A rate of 0 is an outage of ``outage_ns``.
    """

    t_ns: int
    direction: str
    n: int
    rate_bps: int
    outage_ns: int = 0


@dataclass(frozen=True)
class Hold:
    """In an outage: what passes from now on is to be the last for ``owed_ns``.

    Said again at short intervals, because a packet owes what was said last, however late it comes.
    """

    t_ns: int
    direction: str
    owed_ns: int


def owed(length_ns: int) -> Iterator[tuple[int, int]]:
    """(time since an outage began, what a packet owes from then on), each time that it is said.

    What waits already passes at once, and owes the whole outage. Far from the end it is less than
    what is left, so that nothing outlasts the outage, whenever it passes; a second packet may
    follow then, and holds the link up for at most ``NEAR_NS`` too long.
    """
    left_ns, owed_ns, interval_ns = length_ns, length_ns, NEAR_NS
    while left_ns > 0:
        yield length_ns - left_ns, owed_ns
        left_ns = (left_ns - 1) // interval_ns * interval_ns
        is_far = left_ns >= 2 * FAR_NS
        owed_ns = left_ns - FAR_NS if is_far else left_ns
        interval_ns = FAR_NS if is_far else NEAR_NS


@dataclass(frozen=True)
class Sample:
    """One direction's counters are to be read ``t_ns`` after the start."""

    t_ns: int
    direction: str


Event = Change | Hold | Sample


def _changes(direction: str, schedule: Schedule) -> Iterator[Change]:
    rounds = count() if schedule.end == "loop" else range(1)
    numbers = count()
    for i in rounds:
        for t_ns, rate_bps, outage_ns in schedule.steps():
            due_ns = i * schedule.duration_ns + t_ns
            yield Change(due_ns, direction, next(numbers), rate_bps, outage_ns)
    over_ns = schedule.duration_ns  # an outage that reaches the end is over there too
    if schedule.end != "loop" and schedule.steps()[-1][1] == 0:
        yield Change(over_ns, direction, next(numbers), schedule.changes[-1][1])


def _holds(direction: str, schedule: Schedule) -> Iterator[Hold]:
    for i in count() if schedule.end == "loop" else range(1):
        if not schedule.outages:
            return
        for t_ns, length_ns in schedule.outages:
            due_ns = i * schedule.duration_ns + t_ns
            for passed_ns, owed_ns in islice(owed(length_ns), 1, None):  # the change says the first
                yield Hold(due_ns + passed_ns, direction, owed_ns)


def _samples(direction: str, schedule: Schedule, interval_ns: int) -> Iterator[Sample]:
    for t_ns in count(interval_ns, interval_ns):
        if schedule.end_ns is not None and t_ns > schedule.end_ns:
            return
        yield Sample(t_ns, direction)


def timeline(schedules: Mapping[str, Schedule], sample_interval_ns: int) -> Iterator[Event]:
    """All directions' events in order of time; at one moment, changes come before samples."""
    streams: list[Iterator[Event]] = [_changes(d, s) for d, s in schedules.items()]
    streams += [_holds(d, s) for d, s in schedules.items()]
    streams += [_samples(d, s, sample_interval_ns) for d, s in schedules.items()]
    return heapq.merge(*streams, key=attrgetter("t_ns"))


@dataclass(frozen=True)
class Moment:
    """What is due at one time: each event with what is left to do for it then."""

    t_ns: int
    planned: tuple[tuple[Event, Callable[[], Any]], ...]


def moments(
    events: Iterator[Event], prepare: Callable[[Event], Callable[[], Any]]
) -> Iterator[Moment]:
    """Events of one time together, in their order, each prepared as its moment is taken."""
    for t_ns, together in groupby(events, key=attrgetter("t_ns")):
        yield Moment(t_ns, tuple((event, prepare(event)) for event in together))


Due = TypeVar("Due", Event, Moment)


def replay(
    due: Iterator[Due], t0_ns: int, now_ns: Callable[[], int], wait: Callable[[float], bool]
) -> Iterator[Due]:
    """Yield each once its time has come, until they end or the wait is cut short.

    The next one is taken before the waiting for it begins: what its iterator does to prepare it is
    done ahead. ``wait(seconds)`` returns True as soon as the replay is to stop
    (``threading.Event.wait``); it is asked before every one, so a replay that has fallen behind
    stops at once too.
    """
    for one in due:
        left_ns = 1
        while left_ns > 0:
            left_ns = t0_ns + one.t_ns - now_ns()
            if wait(max(0, left_ns) / 1e9):
                return
        yield one
