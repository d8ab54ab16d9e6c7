from __future__ import annotations

import random
from dataclasses import replace

import pytest

from testbed.errors import UserError
from testbed.framing import ip_bytes
from testbed.policy.agent import Agent, ProbeRule
from testbed.policy.estimators import HeadEstimator
from testbed.policy.latency import Candidate, predict_ns
from testbed.policy.policies import make_policy
from testbed.policy.protocol import Outcome

MS, S, MBIT = 10**6, 10**9, 10**6
CANDIDATES = (
    Candidate("offload", 0, 0, 0, 40 * MS, 150_000, 4_000),
    Candidate("3", 30 * MS, 0, 0, 33 * MS, 60_000, 4_000),
    Candidate("local", 160 * MS, 0, 0, 0, 0, 0),
)
SPLITS = tuple(c.split for c in CANDIDATES)
PROBE = ProbeRule(bytes=40_000, interval_ns=S, budget_bytes=100_000)


def agent(name: str = "dynamic", probe: ProbeRule | None = PROBE) -> Agent:
    return Agent(make_policy(name, SPLITS, seed=1), CANDIDATES, MS, probe)


def outcome(now_ns: int, split: str = "3", rate_bps: int | None = None) -> Outcome:
    """A query that went as profiled, with the receiver's span where something crossed."""
    profiled = next(c for c in CANDIDATES if c.split == split)
    spans = (None, None) if rate_bps is None else (60_000, round(60_000 * 8e9 / rate_bps))
    return Outcome(
        now_ns,
        split,
        100 * MS,
        profiled.head_ns,
        40 * MS,
        profiled.tail_ns,
        *spans,
        "ok",
        "measured",
    )


def test_blind_dynamic_stays_local_and_probes_at_once() -> None:
    blind = agent()
    assert blind.probe_due(0)
    decision = blind.decide(0)
    assert (decision.split, decision.rate_bps, decision.load) == ("local", None, 1.0)
    assert decision.predicted_ns == 160 * MS


def test_probe_opens_its_eyes() -> None:
    one = agent()
    one.probe_sent(0, 40_000)
    one.observe(replace(outcome(10 * MS, "3", 40 * MBIT), split="", tail_ns=0, kind="probe"))
    decision = one.decide(20 * MS)
    assert decision.split == "offload"
    assert decision.rate_bps == 40 * MBIT
    assert decision.predicted_ns == predict_ns(
        CANDIDATES[0], rate_bps=40 * MBIT, base_network_ns=MS, load=1.0
    )


def test_probes_wait_for_the_interval_after_a_sample_or_a_probe() -> None:
    one = agent()
    one.observe(outcome(0, rate_bps=10 * MBIT))
    assert not one.probe_due(S - 1)
    assert one.probe_due(S)
    one.probe_sent(S, 40_000)  # and no estimate came of it
    assert not one.probe_due(2 * S - 1)
    assert one.probe_due(2 * S)


def test_queries_that_tell_no_rate_do_not_put_a_probe_off() -> None:
    one = agent()
    one.observe(outcome(0, rate_bps=10 * MBIT))
    one.observe(outcome(S - 1))
    assert one.probe_due(S)


def test_probes_end_with_the_budget() -> None:
    one = agent()
    sent = 0
    for second in range(10):
        if one.probe_due(second * S):
            one.probe_sent(second * S, PROBE.bytes)
            sent += PROBE.bytes
    assert sent == 80_000  # a third would pass 100 kB


@pytest.mark.parametrize("name", ["local", "offload", "static:3"])
def test_static_policies_never_probe(name) -> None:
    assert not agent(name).probe_due(100 * S)


def test_no_rule_no_probe() -> None:
    assert not agent(probe=None).probe_due(100 * S)


def test_dwelling_on_local_does_not_blind() -> None:
    """The link recovers while the policy stays local: probes alone must bring it back."""
    one = agent(probe=ProbeRule(bytes=40_000, interval_ns=S, budget_bytes=10**6))
    now_ns, rate_bps, splits = 0, MBIT, []
    one.observe(outcome(0, rate_bps=rate_bps))
    while now_ns < 6 * S:
        rate_bps = MBIT if now_ns < 3 * S else 40 * MBIT
        if one.probe_due(now_ns):
            span_ns = round(ip_bytes(40_000) * 8e9 / rate_bps)
            one.probe_sent(now_ns, 40_000)
            now_ns += span_ns
            spans = (ip_bytes(40_000), span_ns)
            one.observe(Outcome(now_ns, "", 0, 0, 0, 0, *spans, "ok", "probe"))
        split = one.decide(now_ns).split
        splits.append((now_ns, split))
        now_ns += 160 * MS
        one.observe(outcome(now_ns, split, None if split == "local" else rate_bps))
    assert {split for t, split in splits if t < 3 * S} == {"local"}
    assert {split for t, split in splits if t > int(4.5 * S)} == {"offload"}


def test_load_moves_the_decision_and_is_told() -> None:
    one = agent()
    for i in range(3):
        one.observe(replace(outcome(i * 50 * MS, "offload", 40 * MBIT), tail_ns=160 * MS))
    decision = one.decide(150 * MS)
    assert decision.load == 4.0
    assert decision.split != "offload"


def test_warm_up_and_failures_teach_no_load() -> None:
    one = agent()
    slow = replace(outcome(0, "offload", 20 * MBIT), tail_ns=400 * MS)
    one.observe(replace(slow, kind="warmup"))
    assert one.decide(1).rate_bps == 20 * MBIT
    one.observe(replace(slow, status="fallback", span_ns=S))
    decision = one.decide(1)
    assert (decision.load, decision.rate_bps) == (1.0, 20 * MBIT)


def test_static_policy_is_predicted_once_the_rate_is_known() -> None:
    one = agent("offload")
    assert one.decide(0).predicted_ns is None
    one.observe(outcome(0, "offload", 10 * MBIT))
    assert one.decide(1).predicted_ns == predict_ns(
        CANDIDATES[0], rate_bps=10 * MBIT, base_network_ns=MS, load=1.0
    )


def test_cycle_needs_no_profile_and_says_when_it_is_done() -> None:
    one = Agent(make_policy("cycle", SPLITS, seed=3, cycle_queries=3), (), 0, PROBE)
    decisions = []
    while not one.finished:
        decisions.append(one.decide(len(decisions)))
        one.observe(outcome(len(decisions), "3", 10 * MBIT))
    assert len(decisions) == 6 * len(SPLITS)
    assert sum(d.settling for d in decisions) == 2 * len(SPLITS)
    assert {d.predicted_ns for d in decisions} == {None}
    assert not one.probe_due(100 * S)


def test_dynamic_without_a_profile_is_refused() -> None:
    with pytest.raises(UserError, match="needs a profile"):
        Agent(make_policy("dynamic", SPLITS, seed=1), (), 0, PROBE)


def test_a_probe_tells_of_the_queue() -> None:
    one = agent()
    one.observe(outcome(0, "offload", 40 * MBIT))
    assert one.decide(1).split == "offload"
    for i in range(2):
        probe = replace(outcome(i * 300 * MS), split="", tail_ns=0, kind="probe", wait_ns=S)
        one.observe(probe)
    assert one.decide(300 * MS).split == "local"


def test_heads_are_believed_as_measured_while_fresh() -> None:
    one = agent()
    for i in range(3):
        fast = replace(outcome(i * 100 * MS, "3", 40 * MBIT), head_ns=10 * MS)
        one.observe(fast)
    decision = one.decide(250 * MS)
    assert decision.split == "3"  # 20 ms less than its profile, which offload beats
    assert one.decide(60 * S).split == "offload"


def test_decisions_are_those_of_plain_arithmetic_over_the_heads_as_measured() -> None:
    rng = random.Random(7)
    layers = [
        Candidate(str(i), i * MS, 10**5, 10**5, (250 - i) * MS, rng.randrange(10**3, 10**6), 4_000)
        for i in range(1, 60)
    ]
    candidates = (CANDIDATES[0], *layers, replace(CANDIDATES[2], head_ns=130 * MS))
    splits = tuple(c.split for c in candidates)
    one = Agent(make_policy("dynamic", splits, seed=1), candidates, MS, None)
    heads = HeadEstimator()
    now_ns = 0
    for _ in range(400):
        now_ns += rng.choice((50, 500, 3_000)) * MS
        decision = one.decide(now_ns)
        heads.forget(now_ns)
        if decision.rate_bps is not None:
            known = [
                replace(c, head_ns=round(c.head_ns * heads.own.get(c.split, 1))) for c in candidates
            ]
            terms = {"rate_bps": decision.rate_bps, "base_network_ns": MS, "load": decision.load}
            terms |= {"wait_ns": decision.wait_ns, "slowdown": heads.slowdown}
            best = min((predict_ns(c, **terms), c.head_ns, c.split) for c in known)
            assert (decision.predicted_ns, decision.split) == (best[0], best[2])
        profiled = rng.choice(candidates[1:])  # whichever is run shows its own head
        head_ns = round(profiled.head_ns * rng.uniform(0.3, 3))
        went = Outcome(
            now_ns, profiled.split, S, head_ns, MS, round(profiled.tail_ns * rng.uniform(0.9, 4)),
            60_000, round(60_000 * 8e9 / rng.uniform(MBIT, 200 * MBIT)), "ok", "measured",
            wait_ns=rng.randrange(0, 50 * MS),
        )  # fmt: skip
        one.observe(went)
        heads.add(now_ns, profiled.split, head_ns / profiled.head_ns)
