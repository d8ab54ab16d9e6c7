"""When queries are due, and what becomes of those that cannot be taken."""

from __future__ import annotations

import pytest

from testbed.worker.arrivals import ArrivalRule, Arrivals
from tests.unit.device_runs import MS, S


def take_all(arrivals: Arrivals, moments: list[int]) -> tuple[list[int], list[int]]:
    taken, dropped = [], []
    for now_ns in moments:
        if arrivals.wait_ns(now_ns) == 0:
            due_ns, older = arrivals.take(now_ns)
            assert due_ns is not None
            taken.append(due_ns)
            dropped += older
    return taken, dropped


def test_camera_takes_the_newest_or_queues() -> None:
    moments = [0, 10, 25, 70, 71]
    newest = Arrivals(ArrivalRule("periodic", 20, "newest"), 1, 0)
    assert take_all(newest, moments) == ([0, 20, 60], [40])
    assert newest.wait_ns(72) == 8
    queued = Arrivals(ArrivalRule("periodic", 20, "queue"), 1, 0)
    assert take_all(queued, moments) == ([0, 20, 40, 60], [])
    assert queued.rest(130) == [80, 100, 120]
    assert (queued.arrived, queued.most_waiting) == (7, 3)


def test_poisson_has_its_mean_and_is_the_seeds() -> None:
    def dues(seed: int) -> list[int]:
        return Arrivals(ArrivalRule("poisson", 10 * MS, "queue"), seed, 0).rest(20 * S)

    assert dues(1) == dues(1) != dues(2)
    assert len(dues(1)) == pytest.approx(2000, rel=0.08)


def test_closed_loop_is_always_due() -> None:
    closed = Arrivals(ArrivalRule(), 1, 0)
    assert closed.wait_ns(5) == 0
    assert closed.take(5) == (None, [])
    assert closed.rest(10) == []
