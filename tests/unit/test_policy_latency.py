from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import UserError
from testbed.policy.fixed import Static
from testbed.policy.latency import Candidate, candidates_from_profile, predict_ns
from testbed.policy.policies import make_policy
from testbed.policy.predicting import Dynamic
from testbed.policy.protocol import Outcome, State

MS, MBIT = 10**6, 10**6
SPLITS = ("offload", "1", "3", "local")


def candidate(split: str = "3", head_ms: int = 0, tail_ms: int = 0, up: int = 0) -> Candidate:
    return Candidate(split, head_ms * MS, 0, 0, tail_ms * MS, up, 4000 if up else 0)


def test_prediction_by_hand() -> None:
    split = Candidate("3", 10 * MS, 1 * MS, 2 * MS, 20 * MS, 144_800, 4_040)
    # 100 segments of 1448 B are 150000 IP bytes; the burst of 5 packets (7500 IP bytes) is free:
    # 142500 B at 10 Mbit/s take 114 ms. 10 + 1 + 114 + 3 + (2 + 20) · 1.5 = 161.
    got = predict_ns(split, rate_bps=10 * MBIT, base_network_ns=3 * MS, load=1.5)
    assert got == 161 * MS


def test_local_pays_for_no_network_and_no_server() -> None:
    local = Candidate("local", 160 * MS, 0, 0, 0, 0, 0)
    assert predict_ns(local, rate_bps=1, base_network_ns=50 * MS, load=9.0) == 160 * MS


def test_payload_within_the_burst_costs_the_base_time_alone() -> None:
    small = candidate(tail_ms=7, up=5_000)
    assert predict_ns(small, rate_bps=MBIT, base_network_ns=2 * MS, load=1.0) == 9 * MS


def test_candidates_come_from_the_profile_in_its_order() -> None:
    times = {
        "head_ns": 1, "encode_ns": 2, "decode_ns": 3, "tail_ns": 4, "bytes_up": 5,
        "bytes_down": 6, "head_iqr_ns": 0, "tail_iqr_ns": 0, "network_ns": 9, "n": 12,
    }  # fmt: skip
    profile = {"base_network_ns": 7, "candidates": {"3": times, "local": times}}
    assert candidates_from_profile(profile) == (
        Candidate("3", 1, 2, 3, 4, 5, 6),
        Candidate("local", 1, 2, 3, 4, 5, 6),
    )


def state(candidates: tuple[Candidate, ...], rate_bps: float | None, load: float = 1.0) -> State:
    return State(0, candidates, rate_bps, None, load, 1 * MS)


CROSSOVER = (
    candidate("offload", 0, 40, 150_000),
    candidate("3", 30, 33, 60_000),
    candidate("local", 160, 0, 0),
)


@pytest.mark.parametrize(
    ("rate_bps", "load", "best"),
    [
        (2 * MBIT, 1.0, "local"),
        (10 * MBIT, 1.0, "3"),
        (40 * MBIT, 1.0, "offload"),
        (40 * MBIT, 3.0, "3"),
        (40 * MBIT, 9.0, "local"),
    ],
)
def test_dynamic_moves_with_rate_and_load(rate_bps, load, best) -> None:
    assert Dynamic().decide(state(CROSSOVER, rate_bps, load)) == best


times_ms = st.integers(0, 300)
middles = st.lists(
    st.builds(candidate, st.integers(0, 50).map(str), times_ms, times_ms, st.integers(1, 10**6)),
    max_size=6,
    unique_by=lambda c: c.split,
)


@given(middles, times_ms, st.integers(100_000, 10**9), st.floats(0.2, 20))
def test_dynamic_is_the_argmin(middle, local_ms, rate_bps, load) -> None:
    candidates = (candidate("offload", 0, 50, 150_000), *middle, candidate("local", local_ms))
    chosen = Dynamic().decide(state(candidates, rate_bps, load))

    def cost(c: Candidate) -> int:
        return predict_ns(c, rate_bps=rate_bps, base_network_ns=MS, load=load)

    (picked,) = (c for c in candidates if c.split == chosen)
    assert cost(picked) == min(map(cost, candidates))
    ties = [c for c in candidates if cost(c) == cost(picked)]
    assert picked.head_ns == min(c.head_ns for c in ties)


def test_a_tie_goes_to_less_work_on_the_device() -> None:
    deeper, shallower = candidate("5", 60, 20, 30_000), candidate("3", 50, 30, 30_000)
    for order in ((deeper, shallower), (shallower, deeper)):
        assert Dynamic().decide(state(order, 10 * MBIT)) == "3"


def test_dynamic_without_an_estimate_stays_local() -> None:
    assert Dynamic().decide(state(CROSSOVER, None)) == "local"


@pytest.mark.parametrize(
    ("name", "split"), [("local", "local"), ("offload", "offload"), ("static:3", "3")]
)
def test_static_policies_by_name(name, split) -> None:
    policy = make_policy(name, SPLITS, seed=1)
    assert isinstance(policy, Static)
    assert {policy.decide(state(CROSSOVER, rate)) for rate in (None, 1, 10**9)} == {split}
    assert not policy.uses_rate
    assert not policy.finished


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nonesuch", "expected local, offload, static:<split>, dynamic"),
        ("3", "expected local, offload, static:<split>, dynamic"),
        ("static:", "'' is not a candidate"),
        ("static:7", "'7' is not a candidate; expected one of offload, 1, 3, local"),
        ("cycle", "expected local"),
    ],
)
def test_unknown_policies_are_refused(name, said) -> None:
    with pytest.raises(UserError, match=said):
        make_policy(name, SPLITS, seed=1)


def cycle_order(seed: int, queries: int = 12) -> list[tuple[str, bool]]:
    policy = make_policy("cycle", SPLITS, seed=seed, cycle_queries=queries)
    order = []
    while not policy.finished:
        order.append((policy.decide(state((), None)), policy.settling))
        assert len(order) < 1000
    return order


@pytest.mark.parametrize("queries", [1, 4, 12])
def test_cycle_gives_each_candidate_its_queries_in_settled_blocks(queries) -> None:
    order = cycle_order(1, queries)
    blocks = [order[i : i + 6] for i in range(0, len(order), 6)]
    for block in blocks:
        assert len({split for split, _ in block}) == 1
        assert [settling for _, settling in block] == [True, True, False, False, False, False]
    for split in SPLITS:
        counted = order.count((split, False))
        assert queries <= counted < queries + 4
    rounds = [blocks[i : i + len(SPLITS)] for i in range(0, len(blocks), len(SPLITS))]
    assert all({block[0][0] for block in one} == set(SPLITS) for one in rounds)


def test_cycle_order_is_the_seeds() -> None:
    assert cycle_order(1) == cycle_order(1)
    assert cycle_order(1) != cycle_order(2)


def test_a_policy_may_learn_by_itself() -> None:
    class Greedy(Static):
        def observe(self, outcome: Outcome) -> None:
            self._split = outcome.split

    policy = Greedy("local")
    policy.observe(Outcome(0, "3", 1, 1, 0, 0, None, None, "ok", "measured"))
    assert policy.decide(state((), None)) == "3"
