"""A load's arrivals against a simulated executor: is it busy for the share that was asked for?"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count
from statistics import mean

import pytest

from testbed.worker.pacing import Pacing

MS, S = 10**6, 10**9
TICK_NS, CLIENTS = 100 * MS, 16


class Executor:
    """First in, first out, on a simulated clock; clients and a measured device share it."""

    def __init__(self, seed: int, service_ns: int, device_rest_ns: int | None) -> None:
        self.rng = random.Random(seed)
        self.service_ns, self.device_rest_ns = service_ns, device_rest_ns
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.now_ns = self.busy_until_ns = self.load_busy_ns = 0.0

    def at(self, t_ns: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (t_ns, next(self.order), what))

    def submit(self, answer: Callable[[float], None]) -> None:
        """Serve after everything that came before, then ``answer(service_ns)``."""
        service_ns = self.service_ns * self.rng.lognormvariate(0, 0.1)
        self.busy_until_ns = max(self.busy_until_ns, self.now_ns) + service_ns
        self.at(self.busy_until_ns, lambda: answer(service_ns))

    def ask_as_device(self) -> None:
        rest_ns = self.device_rest_ns
        assert rest_ns is not None
        self.submit(lambda _: self.at(self.now_ns + rest_ns, self.ask_as_device))

    def run(self, end_ns: int) -> None:
        while self.events and self.events[0][0] <= end_ns:
            self.now_ns, _, what = heapq.heappop(self.events)
            what()


def achieved(
    levels: list[float], *, seed: int, calibrated_ns: int, device_rest_ns: int | None
) -> float:
    """The share of 12 s that the load kept the executor busy, the levels in turn."""
    executor = Executor(seed, 40 * MS, device_rest_ns)
    pacing, rng = Pacing(calibrated_ns), random.Random(seed)
    span_ns, due_ns, free = 12 * S / len(levels), 0.0, CLIENTS

    def tick(held: float = 0.0) -> None:
        level = levels[min(len(levels) - 1, int(executor.now_ns // span_ns))]
        pacing.hold(level, round(held * TICK_NS))
        executor.at(executor.now_ns + TICK_NS, lambda: tick(level))

    def draw() -> None:
        nonlocal due_ns
        interval_ns = pacing.interval_ns
        assert interval_ns is not None
        due_ns += rng.expovariate(1 / interval_ns)
        executor.at(max(executor.now_ns, due_ns), ask)

    def ask() -> None:
        nonlocal free
        taken_for_ns = pacing.asked()
        free -= 1

        def answer(service_ns: float) -> None:
            nonlocal free
            executor.load_busy_ns += service_ns
            pacing.answered(taken_for_ns, round(service_ns))
            free += 1
            if free == 1:
                draw()

        executor.submit(answer)
        if free:
            draw()

    tick()
    draw()
    if device_rest_ns is not None:
        executor.ask_as_device()
    executor.run(12 * S)
    return executor.load_busy_ns / (12 * S)


@pytest.mark.parametrize("device_rest_ns", [None, 5 * MS, 60 * MS])
@pytest.mark.parametrize("calibrated_ns", [30 * MS, 40 * MS, 60 * MS])
def test_level_is_what_the_executor_is_busy_for(calibrated_ns, device_rest_ns) -> None:
    runs = [
        achieved([0.7], seed=s, calibrated_ns=calibrated_ns, device_rest_ns=device_rest_ns)
        for s in range(25)
    ]
    assert mean(runs) == pytest.approx(0.7, abs=0.02)
    assert all(abs(run - 0.7) <= 0.05 for run in runs), (min(runs), max(runs))


def test_levels_in_turn_have_their_mean() -> None:
    runs = [
        achieved([0.3, 0.8, 0.4], seed=s, calibrated_ns=40 * MS, device_rest_ns=60 * MS)
        for s in range(25)
    ]
    assert all(abs(run - 0.5) <= 0.05 for run in runs), (min(runs), max(runs))


def test_nothing_is_asked_at_level_zero_and_a_surplus_halves_the_rate_at_most() -> None:
    pacing = Pacing(40 * MS)
    assert pacing.interval_ns is None
    pacing.hold(0.8, 0)
    assert pacing.interval_ns == 50 * MS
    for _ in range(100):
        pacing.answered(pacing.asked(), 40 * MS)
    pacing.hold(0.8, 0)
    assert pacing.interval_ns == 100 * MS
