"""What a policy is: two methods, what it is shown, and what it is told afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from testbed.policy.latency import Candidate


@dataclass(frozen=True)
class State:
    """What a policy may know: estimates from this run's own transfers, never the trace.

    Attributes:
        now_ns: the device's monotonic clock.
        candidates: the splits to choose from with their profiled times, heads corrected by what
            each showed lately beside the ``slowdown``; empty without a profile.
        rate_bps: the uplink's rate as estimated, None before the first sample.
        rate_age_ns: time since the newest sample.
        load: how many times longer the server's work takes than when it was profiled.
        slowdown: the same of the device's own work.
        base_network_ns: network time beyond serialisation.
        wait_ns: time a query waits in the server's queue.
        rate_low_bps, load_high, wait_high_ns: the pessimistic side of each estimate.
        confidence: in the rate, 0 (none) to 1 (many samples, all fresh).
        run_ns: time since the run began; 0 in its warm-up.
        deadline_ns: the experiment's deadline for a query, None without one.
    """

    now_ns: int
    candidates: tuple[Candidate, ...]
    rate_bps: float | None
    rate_age_ns: int | None
    load: float
    base_network_ns: int
    wait_ns: int = 0
    rate_low_bps: float | None = None
    load_high: float = 1.0
    wait_high_ns: int = 0
    confidence: float = 0.0
    run_ns: int = 0
    deadline_ns: int | None = None
    slowdown: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """How one query or probe went; spans are the receiver's, None where too little crossed.

    ``e2e_ns`` counts from the query's start, not from when it was due: the choice is not to blame
    for the time before.
    """

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
    wait_ns: int = 0


class Policy(Protocol):
    """Chooses the split of each query.

    Attributes:
        uses_rate: whether the rate matters, so that probes are worth their bytes.
        settling: the query just decided comes right after a change that the policy forced
            for measuring's sake, and is a warm-up.
        finished: the policy has no more queries to ask for.
        choices: the splits it may choose, which the run warms up; None for every candidate.
        fault: the first error of a user's own policy, None while there was none.
    """

    uses_rate: bool = False
    settling: bool = False
    finished: bool = False
    choices: tuple[str, ...] | None = None
    fault: str | None = None

    def decide(self, state: State) -> str:
        """The split for the next query."""

    def observe(self, outcome: Outcome) -> None:
        """Learn from a query; the estimators are the agent's, so most policies need nothing."""
        return
