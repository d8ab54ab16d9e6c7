"""What a choice cost, on campaigns whose every time is known."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from analysis.dataset import load_dataset
from analysis.hindsight import choice_costs, costs_by_trial, hindsight
from analysis.metrics import server_estimate
from analysis.replay import with_floor
from testbed.framing import serialisation_ns
from tests.analysis.synthetic import BASE_NETWORK_NS, COSTS, MS


def expected_ns(split: str, rate_bps: int) -> float:
    head, encode, decode, tail, up = COSTS[split]
    network = serialisation_ns(up, rate_bps) + BASE_NETWORK_NS if up else 0
    wait = 120_000 if up else 0
    return head + encode + decode + tail + network + wait


@pytest.mark.parametrize("rate_bps", [3_000_000, 12_000_000, 60_000_000])
def test_a_fixed_choice_costs_what_arithmetic_says(make_campaign, rate_bps) -> None:
    root = make_campaign(steps=((0, rate_bps),), policies=("local", "offload", "static:5"))
    data = load_dataset(root)
    found = choice_costs(hindsight(data, with_floor(data))).set_index("policy")
    times = {split: expected_ns(split, rate_bps) for split in COSTS}
    best = min(times, key=lambda split: times[split])
    for policy, split in (("local", "local"), ("offload", "offload"), ("static:5", "5")):
        row = found.loc[policy]
        assert row["cost_ms"] == pytest.approx((times[split] - times[best]) / 1e6, abs=6)
        assert row["otherwise_share"] == float(split != best)
    assert found["cost_ms"].min() >= 0


def test_dynamic_pays_for_its_estimates_alone(golden) -> None:
    data = load_dataset(golden)
    judged = hindsight(data, with_floor(data))
    found = choice_costs(judged).set_index("policy")["cost_share"]
    assert 0 < found["dynamic"] < 0.05
    assert found["dynamic"] == found.min()
    assert costs_by_trial(judged)["wander", "dynamic", 0] == found["dynamic"]


def test_the_load_counts_by_its_level(make_campaign) -> None:
    root = make_campaign(steps=((0, 60_000_000),), policies=("offload",), loads=("busy",))
    data = load_dataset(root)
    run = data.runs[0]
    # Four clients for the first half: each query then waits 200 ms more.
    load = pd.DataFrame({"run_id": run.run_id, "t_s": [6.0, 12.0], "clients": [4.0, 0.0]})
    early = data.queries["t_s"] < 6
    queries = data.queries.assign(server_wait_ns=data.queries["server_wait_ns"] + early * 200 * MS)
    data = replace(data, load=load.assign(target=float("nan")), queries=queries)
    judged = hindsight(data, with_floor(data))
    loaded = judged["t_s"] < 6
    assert set(judged[loaded]["best"]) == {"local"}
    assert set(judged[~loaded]["best"]) == {"offload"}


def test_each_device_is_judged_by_its_own_times(make_campaign) -> None:
    root = make_campaign(steps=((0, 12_000_000),), policies=("local", "static:5"))
    data = load_dataset(root)
    swift = data.queries.assign(device="swift", head_ns=data.queries["head_ns"] / 10)
    profile = data.profile or {}
    quick = {s: {**c, "head_ns": c["head_ns"] / 10} for s, c in profile["candidates"].items()}
    both = replace(
        data,
        queries=pd.concat([data.queries, swift], ignore_index=True),
        profile={**profile, "devices": {"swift": {**profile, "candidates": quick}}},
    )
    judged = hindsight(both, with_floor(both))
    best = {str(device): set(rows["best"]) for device, rows in judged.groupby("device")}
    assert best == {"device": {"5"}, "swift": {"local"}}


def test_no_profile_no_judgement(make_campaign) -> None:
    root = make_campaign(policies=("local",))
    (root / "profile.json").unlink()
    data = load_dataset(root)
    assert not len(choice_costs(hindsight(data, with_floor(data))))


def test_load_estimates_are_held_against_the_replies() -> None:
    rows = pd.DataFrame(
        {
            "kind": "measured", "status": "ok", "policy": "dynamic", "split": ["5", "5", "local"],
            "bytes_up": [1, 1, 0], "tail_ns": [20e6, 40e6, 0], "load_est": [2.0, 2.0, 9.0],
            "server_wait_ns": [5e6, 15e6, 0], "wait_est_ns": [10e6, 10e6, 0],
        }
    )  # fmt: skip
    found = server_estimate(rows, {"5": 20e6, "local": 0.0}).iloc[0]
    assert (found["n"], found["median_ratio"]) == (2, 1.5)
    assert (found["wait_ms"], found["wait_bias_ms"], found["wait_error_ms"]) == (10, 0, 5)


def test_report_has_the_tables_and_the_matrix_the_cost(golden, tmp_path) -> None:
    from analysis.report import write_report

    folder = write_report(golden, tmp_path / "report").parent
    summary = json.loads((folder / "summary.json").read_text())
    assert {"hindsight", "server_estimate"} <= set(summary["tables"])
    costs = {row["policy"]: row["choice_cost"] for row in summary["matrix"]}
    assert costs["dynamic"] < costs["offload"]
