"""Policies that minimise the predicted latency, each with its own way to treat doubt."""

from __future__ import annotations

from collections import deque

from testbed.model.table import LOCAL
from testbed.policy.latency import Candidate, Candidates, predict_ns
from testbed.policy.protocol import Outcome, Policy, State


def least(candidates: tuple[Candidate, ...], state: State, rate_bps: float) -> tuple[str, int]:
    """The candidate predicted fastest and its time; a tie goes to less work on the device."""
    known = candidates if isinstance(candidates, Candidates) else Candidates(candidates)
    near = known.nearly_fastest(
        rate_bps=rate_bps,
        base_network_ns=state.base_network_ns,
        load=state.load,
        wait_ns=state.wait_ns,
        slowdown=state.slowdown,
    )
    found = ((predict(c, state, rate_bps), c.head_ns, c.split) for c in near)
    predicted_ns, _, split = min(found)
    return split, predicted_ns


def predict(candidate: Candidate, state: State, rate_bps: float) -> int:
    """The prediction from the state's own estimates of everything but the rate."""
    return predict_ns(
        candidate,
        rate_bps=rate_bps,
        base_network_ns=state.base_network_ns,
        load=state.load,
        wait_ns=state.wait_ns,
        slowdown=state.slowdown,
    )


class Dynamic(Policy):
    """The candidate with the least predicted latency (Bakhtiarnia et al., arXiv 2205.11269)."""

    uses_rate = True

    def decide(self, state: State) -> str:
        """The argmin, or ``local`` while there is no rate estimate at all."""
        if state.rate_bps is None:
            return LOCAL
        return least(state.candidates, state, state.rate_bps)[0]


class Hysteresis(Policy):
    """As ``dynamic``, but another split must promise ``MARGIN`` less before it is taken.

    The first query after a switch pays for caches and the congestion window, so that two splits
    about as fast as each other are not worth going to and fro between.
    """

    uses_rate = True
    MARGIN = 0.05

    def __init__(self) -> None:
        self._held: str | None = None

    def decide(self, state: State) -> str:
        """The split held, unless another is better by the margin."""
        rate_bps = state.rate_bps
        if rate_bps is None:
            return LOCAL
        best, best_ns = least(state.candidates, state, rate_bps)
        held = next((c for c in state.candidates if c.split == self._held), None)
        if held is None or best_ns < (1 - self.MARGIN) * predict(held, state, rate_bps):
            self._held = best
        return self._held or best


class Robust(Policy):
    """The least latency should every estimate be as bad as its recent samples allow."""

    uses_rate = True

    def decide(self, state: State) -> str:
        """The argmin under the low rate, the high load and the long wait."""
        if state.rate_low_bps is None:
            return LOCAL
        return min(
            state.candidates,
            key=lambda candidate: (pessimistic_ns(candidate, state), candidate.head_ns),
        ).split


def pessimistic_ns(candidate: Candidate, state: State) -> int:
    """The prediction from the pessimistic side of every estimate."""
    return predict_ns(
        candidate,
        rate_bps=state.rate_low_bps or 1,
        base_network_ns=state.base_network_ns,
        load=state.load_high,
        wait_ns=state.wait_high_ns,
        slowdown=state.slowdown,
    )


class Deadline(Policy):
    """The least work on the device that meets the deadline with probability ``SHARE``.

    A prediction is stretched by that quantile of measured ÷ predicted among the last queries,
    told apart by whether they crossed the link. Where nothing meets the deadline: the fastest.
    """

    uses_rate = True
    SHARE = 0.95
    WINDOW = 64

    def __init__(self) -> None:
        self._ratios: dict[bool, deque[float]] = {
            crossed: deque(maxlen=self.WINDOW) for crossed in (True, False)
        }
        self._predicted_ns = 0

    def decide(self, state: State) -> str:
        """The candidate, or ``local`` while there is no rate estimate at all."""
        rate_bps = state.rate_bps
        if rate_bps is None or state.deadline_ns is None:
            return LOCAL
        expected = {c.split: predict(c, state, rate_bps) for c in state.candidates}
        stretch = {crossed: self._quantile(crossed) for crossed in (True, False)}
        meeting = [
            candidate
            for candidate in state.candidates
            if expected[candidate.split] * stretch[candidate.split != LOCAL] <= state.deadline_ns
        ]
        if meeting:
            split = min(meeting, key=lambda c: (c.head_ns + c.encode_ns, expected[c.split])).split
        else:
            split = least(state.candidates, state, rate_bps)[0]
        self._predicted_ns = expected[split]
        return split

    def observe(self, outcome: Outcome) -> None:
        """Keep how far the prediction was off; a fallback was late whatever it took."""
        if outcome.kind == "measured" and self._predicted_ns:
            ratio = outcome.e2e_ns / self._predicted_ns
            self._ratios[outcome.split != LOCAL].append(ratio)
            self._predicted_ns = 0

    def _quantile(self, crossed: bool) -> float:
        ratios = sorted(self._ratios[crossed])
        return ratios[min(len(ratios) - 1, int(self.SHARE * len(ratios)))] if ratios else 1.0
