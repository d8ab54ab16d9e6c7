"""Policies that look at nothing: one split, a random one, or all in turn."""

from __future__ import annotations

import random
from collections.abc import Sequence

from testbed.policy.protocol import Policy, State


class Static(Policy):
    """Always the same split; ``local`` and ``offload`` are two of them."""

    def __init__(self, split: str) -> None:
        self._split = split
        self.choices = (split,)

    def decide(self, state: State) -> str:
        """The one split."""
        return self._split


class Random(Policy):
    """Any candidate with equal chance: what choosing without knowing is worth."""

    def __init__(self, splits: Sequence[str], seed: int) -> None:
        self._splits = tuple(splits)
        self._rng = random.Random(seed)

    def decide(self, state: State) -> str:
        """One of the candidates, by the seed."""
        return self._rng.choice(self._splits)


class Cycle(Policy):
    """Every candidate in turn, for the profile: each is measured in the rhythm of a run.

    Blocks of six queries of one candidate; the first two let caches, the congestion window and a
    limited processor settle (measured at a quarter of a processor: the first two heads after a
    change took a third longer than the rest, the third no more). Each round has one block of
    every candidate, in an order shuffled by the seed, so that a drift of the hosts meets all
    alike. Rounds go on until each candidate has ``queries`` that count.
    """

    BLOCK = 6
    SETTLING = 2

    def __init__(self, splits: Sequence[str], queries: int, seed: int) -> None:
        rng = random.Random(seed)
        rounds = -(-queries // (self.BLOCK - self.SETTLING))
        self._order = [
            split
            for _ in range(rounds)
            for split in rng.sample(list(splits), len(splits))
            for _ in range(self.BLOCK)
        ]
        self._next = 0

    def decide(self, state: State) -> str:
        """The next of the order; the last one again once it is finished."""
        index = min(self._next, len(self._order) - 1)
        self.settling = index % self.BLOCK < self.SETTLING
        self._next = index + 1
        self.finished = self._next == len(self._order)
        return self._order[index]
