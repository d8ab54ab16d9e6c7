"""The agent on the device: estimates, decides, and keeps the rate estimate fresh."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from testbed.errors import UserError
from testbed.model.table import LOCAL
from testbed.policy.estimators import HeadEstimator, LoadEstimator, QueueEstimator, RateEstimator
from testbed.policy.latency import Candidate, Candidates
from testbed.policy.predicting import predict
from testbed.policy.protocol import Outcome, Policy, State

_RATIOS_LEAST, _RATIOS_MOST = 20, 100


@dataclass(frozen=True)
class ProbeRule:
    """Uplink probes of ``bytes``, one an interval without rate samples, within a byte budget."""

    bytes: int
    interval_ns: int
    budget_bytes: int


@dataclass(frozen=True)
class Decision:
    """A split with the estimates behind it; ``predicted_ns`` is None without profile or rate.

    ``load`` and ``wait_ns`` are the server's slowdown and queue as estimated. ``settling`` marks a
    query that is a warm-up by the policy's own account.
    """

    split: str
    rate_bps: int | None
    load: float
    predicted_ns: int | None
    settling: bool
    wait_ns: int = 0


class Agent:
    """One run's policy with its estimators; a new run takes a new agent.

    ``candidates`` is empty where there is no profile yet; a policy that uses the rate then
    raises UserError. All times are one clock's, given by the caller.
    """

    def __init__(
        self,
        policy: Policy,
        candidates: tuple[Candidate, ...],
        base_network_ns: int,
        probe: ProbeRule | None,
        deadline_ns: int | None = None,
    ) -> None:
        if policy.uses_rate and not candidates:
            raise UserError("the policy needs a profile, got none; profile the model first")
        self._policy = policy
        self._profiled = Candidates(candidates)
        self._places = {candidate.split: place for place, candidate in enumerate(candidates)}
        self._base_network_ns = base_network_ns
        self._probe = probe if policy.uses_rate else None
        self._probed_ns: int | None = None
        self._probed_bytes = 0
        self._rate = RateEstimator()
        self._load = LoadEstimator()
        self._wait = QueueEstimator()
        self._heads = HeadEstimator()
        self._current = self._profiled  # with the head times that this run shows
        self._deadline_ns = deadline_ns
        self._begun_ns: int | None = None
        self._predicted_ns: int | None = None
        self._ratios: deque[float] = deque(maxlen=_RATIOS_MOST)

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The splits that the policy may choose; None for every candidate."""
        return self._policy.choices

    @property
    def fault(self) -> str | None:
        """The first error of a user's own policy, None while there was none."""
        return self._policy.fault

    def begin(self, now_ns: int) -> None:
        """The run's own time begins: what a schedule counts from."""
        self._begun_ns = now_ns

    @property
    def finished(self) -> bool:
        """Whether the policy has no more queries to ask for (only ``cycle`` ever has)."""
        return self._policy.finished

    def decide(self, now_ns: int) -> Decision:
        """The split of the query that begins now."""
        rate_bps = self._rate.rate_bps
        state = State(
            now_ns,
            self._as_measured(now_ns),
            rate_bps,
            self._rate.age_ns(now_ns),
            self._load.value(now_ns),
            self._base_network_ns,
            wait_ns=round(self._wait.value(now_ns)),
            rate_low_bps=self._rate.low_bps(now_ns),
            load_high=self._load.high(now_ns),
            wait_high_ns=round(self._wait.high(now_ns)),
            confidence=self._rate.confidence(now_ns),
            run_ns=0 if self._begun_ns is None else now_ns - self._begun_ns,
            deadline_ns=self._deadline_ns,
            slowdown=self._heads.slowdown,
        )
        split = self._policy.decide(state)
        predicted_ns = self._predicted_ns = self._predict_ns(split, state)
        settling = self._policy.settling
        return Decision(split, rate_bps, state.load, predicted_ns, settling, state.wait_ns)

    def _as_measured(self, now_ns: int) -> Candidates:
        """The candidates with the head times that this run shows, where those are fresh."""
        if now_ns > self._heads.stale_ns:
            self._heads.forget(now_ns)
            self._correct()
        return self._current

    def _measure_head(self, profiled: Candidate, outcome: Outcome) -> None:
        # Here and not at the decision: a query waits for that.
        self._heads.add(outcome.now_ns, profiled.split, outcome.head_ns / profiled.head_ns)
        self._correct()

    def _correct(self) -> None:
        shown = {}
        for split, own in self._heads.own.items():
            profiled = self._profiled[self._places[split]]
            head_ns = round(profiled.head_ns * own)
            shown[self._places[split]] = replace(profiled, head_ns=head_ns)
        self._current = self._profiled.replaced(shown)

    def _predict_ns(self, split: str, state: State) -> int | None:
        place = self._places.get(split)
        if place is None or (state.rate_bps is None and split != LOCAL):
            return None
        return predict(self._current[place], state, state.rate_bps or 1)

    def latest_ns(self, decision: Decision) -> int | None:
        """When a query is later than nearly every one before: the prediction's 99th percentile.

        It is stretched by the second largest of the last hundred ratios measured ÷ predicted; None
        without a prediction, or with too few ratios to tell.
        """
        if decision.predicted_ns is None or len(self._ratios) < _RATIOS_LEAST:
            return None
        return round(sorted(self._ratios)[-2] * decision.predicted_ns)

    def observe(self, outcome: Outcome) -> None:
        """Feed the estimators and the policy with a query or probe that ended."""
        predicted_ns, self._predicted_ns = self._predicted_ns, None
        crossed = outcome.kind == "measured" and outcome.split != LOCAL
        if predicted_ns and crossed and outcome.status == "ok":
            self._ratios.append(outcome.e2e_ns / predicted_ns)
        place = self._places.get(outcome.split)
        profiled = None if place is None else self._profiled[place]
        if profiled is not None and profiled.head_ns > 0 and outcome.kind == "measured":
            self._measure_head(profiled, outcome)
        if outcome.status == "ok":
            if outcome.span_bytes is not None and outcome.span_ns is not None:
                self._rate.add(outcome.now_ns, outcome.span_bytes, outcome.span_ns)
            if outcome.kind == "probe":
                self._wait.add(outcome.now_ns, outcome.wait_ns)
            # A warm-up's tail is slow for reasons of its own, and a probe has none.
            if profiled is not None and outcome.split != LOCAL and outcome.kind == "measured":
                if outcome.tail_ns > 0 and profiled.tail_ns > 0:
                    self._load.add(outcome.now_ns, outcome.tail_ns / profiled.tail_ns)
                self._wait.add(outcome.now_ns, outcome.wait_ns)
        self._policy.observe(outcome)

    def probe_due(self, now_ns: int) -> bool:
        """Whether to send a probe before the next query.

        Due when neither a rate sample nor a probe came within the interval (at once where there
        was none yet), while the budget holds out; never for a policy that ignores the rate.
        """
        rule = self._probe
        if rule is None or self._probed_bytes + rule.bytes > rule.budget_bytes:
            return False
        ages_ns = [self._rate.age_ns(now_ns)]
        ages_ns.append(None if self._probed_ns is None else now_ns - self._probed_ns)
        return all(age_ns is None or age_ns >= rule.interval_ns for age_ns in ages_ns)

    def probe_sent(self, now_ns: int, bytes_sent: int) -> None:
        """Charge a probe to the budget, whether or not an estimate comes of it."""
        self._probed_ns = now_ns
        self._probed_bytes += bytes_sent
