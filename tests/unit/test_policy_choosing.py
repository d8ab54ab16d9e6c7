"""The policies that choose, each by what sets it apart; the user's own under guard."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.errors import UserError
from testbed.framing import burst_bytes, ip_bytes, serialisation_ns
from testbed.model.table import SplitPoint, SplitTable
from testbed.policy.agent import Agent
from testbed.policy.ans import _SIZE, Ans, _inverse
from testbed.policy.clairvoyant import Clairvoyant, Oracle, Steps
from testbed.policy.estimators import RateEstimator
from testbed.policy.fixed import Random
from testbed.policy.latency import Candidate, predict_ns
from testbed.policy.neurosurgeon import regress, sizes_before
from testbed.policy.policies import make_policy
from testbed.policy.predicting import Deadline, Dynamic, Hysteresis, Robust
from testbed.policy.protocol import Outcome, State
from testbed.policy.user import Guarded, Source, check, find_source, load

ROOT = Path(__file__).resolve().parents[2]
MS, S, MBIT = 10**6, 10**9, 10**6
CANDIDATES = (
    Candidate("offload", 0, 0, 0, 40 * MS, 150_000, 4_000),
    Candidate("3", 30 * MS, 0, 0, 33 * MS, 60_000, 4_000),
    Candidate("local", 160 * MS, 0, 0, 0, 0, 0),
)
SPLITS = tuple(c.split for c in CANDIDATES)
SEEING = State(
    0, CANDIDATES, 10 * MBIT, 0, 1.0, MS, rate_low_bps=10 * MBIT, confidence=1.0, deadline_ns=S
)


def ended(split: str, e2e_ns: int = 100 * MS, tail_ns: int = 40 * MS, wait_ns: int = 0) -> Outcome:
    return Outcome(0, split, e2e_ns, 0, 0, tail_ns, None, None, "ok", "measured", wait_ns=wait_ns)


def crossover_bps() -> int:
    """The rate at which the split and offload take the same time, by bisection."""
    low, high = 10 * MBIT, 40 * MBIT
    while high - low > 1000:
        rate = (low + high) // 2
        first, second = (
            predict_ns(c, rate_bps=rate, base_network_ns=MS, load=1.0) for c in CANDIDATES[:2]
        )
        low, high = (rate, high) if second < first else (low, rate)
    return high


def test_hysteresis_holds_where_dynamic_goes_to_and_fro() -> None:
    middle = crossover_bps()
    rates = [middle * 0.99, middle * 1.01] * 10
    held, free = Hysteresis(), Dynamic()
    states = [replace(SEEING, rate_bps=rate) for rate in rates]
    assert len({held.decide(state) for state in states}) == 1
    assert len({free.decide(state) for state in states}) == 2
    assert held.decide(replace(SEEING, rate_bps=2 * middle)) == "offload"
    assert held.decide(replace(SEEING, rate_bps=None)) == "local"


def test_robust_takes_the_bad_case() -> None:
    assert Robust().decide(replace(SEEING, rate_low_bps=MBIT)) == "local"
    assert Dynamic().decide(replace(SEEING, rate_low_bps=MBIT)) == "3"
    assert Robust().decide(replace(SEEING, wait_high_ns=S)) == "local"
    assert Robust().decide(replace(SEEING, rate_low_bps=None)) == "local"


def test_deadline_takes_the_least_device_work_that_meets_it() -> None:
    fast = replace(SEEING, rate_bps=100 * MBIT, deadline_ns=200 * MS)
    assert Deadline().decide(fast) == "offload"
    # At 10 Mbit/s offload takes 160 ms and the split 106 ms.
    slow = replace(SEEING, rate_bps=10 * MBIT)
    assert Deadline().decide(replace(slow, deadline_ns=180 * MS)) == "offload"
    assert Deadline().decide(replace(slow, deadline_ns=140 * MS)) == "3"
    assert Deadline().decide(replace(slow, deadline_ns=50 * MS)) == "3"  # the fastest: none does


def test_deadline_learns_how_far_predictions_are_off() -> None:
    policy, state = Deadline(), replace(SEEING, rate_bps=10 * MBIT, deadline_ns=180 * MS)
    for _ in range(30):
        split = policy.decide(state)
        policy.observe(ended(split, e2e_ns=160 * MS if split == "local" else 240 * MS))
    assert policy.decide(state) == "local"  # 160 ms, and nothing that crosses is on time


def table() -> SplitTable:
    shapes = {"offload": (3, 64, 64), "0": (8, 32, 32), "1": (16, 16, 16), "local": (10,)}
    points = tuple(
        SplitPoint(split, i, split, (split,), (shape,), 1.0, False, False)
        for i, (split, shape) in enumerate(shapes.items())
    )
    return SplitTable("m", 64, (3, 64, 64), 10, points)


def test_neurosurgeon_predicts_a_candidate_from_the_others() -> None:
    sizes = sizes_before(table())
    assert sizes["offload"] == (0.0, 0.0)
    assert sizes["1"] == (2.0, pytest.approx((8192 + 4096) / 1e6))
    whole = sizes["local"]

    def time(size: tuple[float, float], scale: int) -> int:
        return round(scale * (size[0] * 10 * MS + size[1] * 1e9))

    truth = tuple(
        Candidate(
            split, time(size, 4), 0, 0, time((whole[0] - size[0], whole[1] - size[1]), 1), 1, 1
        )
        for split, size in sizes.items()
    )
    disturbed = tuple(replace(c, head_ns=S) if c.split == "1" else c for c in truth)
    by_split = {c.split: c for c in regress(disturbed, sizes)}
    expected = next(c for c in truth if c.split == "1")
    assert by_split["1"].head_ns == pytest.approx(expected.head_ns, rel=0.01)
    assert by_split["1"].tail_ns == pytest.approx(expected.tail_ns, rel=0.01)
    policy = make_policy("neurosurgeon", tuple(sizes), seed=1, table=table())
    assert policy.decide(replace(SEEING, candidates=truth)) in sizes


def test_inverse_of_a_symmetric_matrix() -> None:
    matrix = [[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]]
    inverse = _inverse(matrix)
    for i in range(_SIZE):
        for j in range(_SIZE):
            product = sum(matrix[i][k] * inverse[k][j] for k in range(_SIZE))
            assert product == pytest.approx(float(i == j), abs=1e-12)


@pytest.mark.parametrize(("rate_bps", "best"), [(2 * MBIT, "local"), (60 * MBIT, "offload")])
def test_ans_learns_from_times_alone(rate_bps, best) -> None:
    policy, chosen = Ans(), []
    state = replace(SEEING, rate_bps=None)
    for _ in range(120):
        split = policy.decide(state)
        candidate = next(c for c in CANDIDATES if c.split == split)
        e2e_ns = predict_ns(candidate, rate_bps=rate_bps, base_network_ns=MS, load=1.0)
        policy.observe(ended(split, e2e_ns=e2e_ns))
        chosen.append(split)
    assert chosen[-40:].count(best) >= 35


def test_random_is_the_seeds_and_meets_every_candidate() -> None:
    first, second, other = ([Random(SPLITS, n).decide(SEEING) for _ in range(1)] for n in (1, 1, 2))
    assert first == second
    assert other[0] in SPLITS
    policy = Random(SPLITS, 3)
    assert {policy.decide(SEEING) for _ in range(100)} == set(SPLITS)


def test_steps_repeat_or_hold() -> None:
    steps = Steps(((0, 5.0), (100, 7.0)), None)
    assert [steps.at(t) for t in (0, 99, 100, 10**6)] == [(5, 100), (5, 100), (7, None), (7, None)]
    again = Steps(steps.changes, 150)
    assert [again.at(t) for t in (149, 150, 250)] == [(7.0, 150), (5.0, 250), (7.0, 300)]


def oracle(rates: list[list[int]], load: list[list[int]] | None = None) -> Oracle:
    return Oracle.from_message(
        {
            "uplink": {"changes": rates, "duration_ns": 10 * S, "end": "hold"},
            "load": {"steps": load or [], "period_ns": None, "queued": True},
        }
    )


def test_oracle_integrates_over_the_changes_to_come() -> None:
    constant = oracle([[0, 10 * MBIT]])
    assert constant.transfer_ns(5, 150_000) == serialisation_ns(150_000, 10 * MBIT)
    stepping = oracle([[0, 10 * MBIT], [50 * MS, 1 * MBIT]])
    bits = ip_bytes(150_000) * 8 - burst_bytes(10 * MBIT) * 1500 // 1514 * 8
    left = bits - 10 * MBIT * 0.05
    assert stepping.transfer_ns(0, 150_000) == pytest.approx(50 * MS + left / MBIT * S, rel=1e-6)


def test_clairvoyant_sees_the_fall_before_it_comes() -> None:
    policy = Clairvoyant(oracle([[0, 100 * MBIT], [S, MBIT]]))
    assert policy.decide(replace(SEEING, run_ns=0)) == "offload"
    assert policy.decide(replace(SEEING, run_ns=S - 2 * MS)) == "local"
    assert Dynamic().decide(replace(SEEING, rate_bps=100 * MBIT)) == "offload"


def test_clairvoyant_knows_the_load_and_learns_what_it_does() -> None:
    policy = Clairvoyant(oracle([[0, 100 * MBIT]], [[0, 0], [S, 5]]))
    assert policy.decide(replace(SEEING, run_ns=0)) == "offload"
    loaded = replace(SEEING, run_ns=S)
    assert policy.decide(loaded) == "local"  # five models wait before ours
    for _ in range(3):
        policy.observe(ended("offload", wait_ns=2 * MS))
    assert policy.decide(loaded) == "offload"  # in truth they hardly do
    assert policy.decide(replace(SEEING, run_ns=0)) == "offload"


def test_oracle_is_needed_and_sources_too() -> None:
    for name in ("clairvoyant", "neurosurgeon", "python:a:B"):
        with pytest.raises(UserError, match="policy: expected"):
            make_policy(name, SPLITS, seed=1)


def test_agent_estimates_the_queue_apart_from_the_slowdown() -> None:
    agent = Agent(Dynamic(), CANDIDATES, MS, None)
    for i in range(3):
        outcome = replace(ended("offload", wait_ns=100 * MS), span_bytes=60_000, span_ns=12 * MS)
        agent.observe(replace(outcome, now_ns=i * 100 * MS))
    decision = agent.decide(300 * MS)
    assert decision.load == 1.0
    assert decision.split == "local"  # at 40 Mbit/s offload would take 68 ms without the queue
    assert decision.predicted_ns is not None
    assert decision.predicted_ns == 160 * MS


def test_low_rate_and_confidence() -> None:
    rng, estimator = random.Random(2), RateEstimator()
    assert (estimator.low_bps(0), estimator.confidence(0)) == (None, 0.0)
    for i in range(16):
        estimator.add(i * 50 * MS, 60_000, round(60_000 * 8e9 / (rng.uniform(5, 20) * MBIT)))
    now_ns = 16 * 50 * MS
    low, rate = estimator.low_bps(now_ns), estimator.rate_bps
    assert low is not None
    assert rate is not None
    assert 5 * MBIT <= low <= 10 * MBIT
    assert low <= rate
    assert estimator.confidence(now_ns) > 0.9
    assert estimator.confidence(now_ns + 4 * S) < 0.1
    assert estimator.low_bps(now_ns + 60 * S) is not None


def source(text: str, name: str = "python:mine:Mine") -> Source:
    import hashlib

    return Source(name, text, hashlib.sha256(text.encode()).hexdigest())


GOOD = """
class Mine:
    def decide(self, state):
        return "offload" if state.rate_bps else "local"
    def observe(self, outcome):
        pass
"""


def test_example_policy_is_found_checked_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = find_source("python:experiments.my_policy:Fastest")
    check(found, SPLITS)
    policy = load(Source(**found.to_message()), SPLITS)
    for _ in range(200):
        split = policy.decide(SEEING)
        policy.observe(ended(split, e2e_ns=50 * MS if split == "3" else 100 * MS))
    assert [policy.decide(SEEING) for _ in range(40)].count("3") >= 30
    assert policy.fault is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nonesuch_package", "cannot be made: ModuleNotFoundError"),
        ("class Other: pass", "cannot be made: KeyError|cannot be made: AttributeError"),
        ("class Mine:\n def decide(self, state): return 'local'", "no method observe"),
        (GOOD.replace('"offload"', '"99"'), "expected a candidate's name, got '99'"),
        (GOOD.replace("pass", "1/0"), "observe: ZeroDivisionError"),
    ],
)
def test_what_a_policy_does_wrong_is_told_at_plan_time(text, said) -> None:
    with pytest.raises(UserError, match=said):
        check(source(text), SPLITS)


def test_altered_source_is_refused() -> None:
    with pytest.raises(UserError, match="altered"):
        load(replace(source(GOOD), text=GOOD + "#"), SPLITS)


def test_missing_file_and_bad_name_are_told() -> None:
    with pytest.raises(UserError, match=r"no file no_such_package/policies\.py"):
        find_source("python:no_such_package.policies:Mine")
    with pytest.raises(UserError, match="expected python:<module>:<class>"):
        find_source("python:module")


def test_a_fault_at_run_time_falls_back_to_local_and_is_kept() -> None:
    class Fails:
        calls = 0

        def decide(self, state: State) -> str:
            self.calls += 1
            if self.calls == 2:
                raise ValueError("once")
            return "offload"

        def observe(self, outcome: Outcome) -> None:
            return

    policy = Guarded(Fails(), SPLITS)
    assert [policy.decide(SEEING) for _ in range(3)] == ["offload", "local", "offload"]
    assert policy.fault == "decide: ValueError: once"
