"""Policies: given the state, which split; each is a pure function of what it was shown."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from testbed.errors import UserError
from testbed.model.table import LOCAL, OFFLOAD
from testbed.policy.latency import Candidate, predict_ns


@dataclass(frozen=True)
class State:
    """What a policy may know: estimates from this run's own transfers, never the trace."""

    now_ns: int
    candidates: tuple[Candidate, ...]
    rate_bps: float | None
    rate_age_ns: int | None
    load: float
    base_network_ns: int


@dataclass(frozen=True)
class Outcome:
    """How one query or probe went; spans are the receiver's, None where too little crossed."""

    now_ns: int
    split: str
    e2e_ns: int
    head_ns: int
    network_ns: int
    tail_ns: int
    span_bytes: int | None
    span_ns: int | None
    status: Literal["ok", "fallback", "failed"]
    kind: Literal["warmup", "measured", "probe"]


class Policy(Protocol):
    """Chooses the split of each query.

    Attributes:
        uses_rate: whether the rate matters, so that probes are worth their bytes.
        settling: the query just decided comes right after a change that the policy forced
            for measuring's sake, and is a warm-up.
        finished: the policy has no more queries to ask for.
    """

    uses_rate: bool = False
    settling: bool = False
    finished: bool = False

    def decide(self, state: State) -> str:
        """The split for the next query."""

    def observe(self, outcome: Outcome) -> None:
        """Learn from a query; the estimators are the agent's, so most policies need nothing."""
        return


class Static(Policy):
    """Always the same split; ``local`` and ``offload`` are two of them."""

    def __init__(self, split: str) -> None:
        self._split = split

    def decide(self, state: State) -> str:
        """The one split."""
        return self._split


class Dynamic(Policy):
    """The candidate with the least predicted latency; a tie goes to less work on the device."""

    uses_rate = True

    def decide(self, state: State) -> str:
        """The argmin, or ``local`` while there is no rate estimate at all."""
        rate_bps = state.rate_bps
        if rate_bps is None:
            return LOCAL
        best, least = LOCAL, (float("inf"), 0)
        for candidate in state.candidates:
            predicted = predict_ns(
                candidate,
                rate_bps=rate_bps,
                base_network_ns=state.base_network_ns,
                load=state.load,
            )
            cost = (predicted, candidate.head_ns)
            if cost < least:
                best, least = candidate.split, cost
        return best


class Cycle(Policy):
    """Every candidate in turn, for the profile: each is measured in the rhythm of a run.

    Blocks of four queries of one candidate; the first lets caches and the congestion window
    settle. Each round has one block of every candidate, in an order shuffled by the seed, so
    that a drift of the hosts meets all alike. Rounds go on until each candidate has ``queries``
    that count.
    """

    BLOCK = 4

    def __init__(self, splits: Sequence[str], queries: int, seed: int) -> None:
        rng = random.Random(seed)
        rounds = -(-queries // (self.BLOCK - 1))
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
        self.settling = index % self.BLOCK == 0
        self._next = index + 1
        self.finished = self._next == len(self._order)
        return self._order[index]


def make_policy(
    name: str, splits: Sequence[str], *, seed: int, cycle_queries: int | None = None
) -> Policy:
    """The policy ``local``, ``offload``, ``static:<split>``, ``dynamic`` or ``cycle``.

    ``splits`` are the candidates. Raises UserError for another name or a split not among them.
    """
    if name == "dynamic":
        return Dynamic()
    if name == "cycle" and cycle_queries is not None:
        return Cycle(splits, cycle_queries, seed)
    split = name.removeprefix("static:") if name.startswith("static:") else name
    if name not in (LOCAL, OFFLOAD, f"static:{split}"):
        raise UserError(f"policy: expected local, offload, dynamic or static:<split>, got {name!r}")
    if split not in splits:
        known = ", ".join(splits)
        raise UserError(f"policy {name}: {split!r} is not a candidate; expected one of {known}")
    return Static(split)
