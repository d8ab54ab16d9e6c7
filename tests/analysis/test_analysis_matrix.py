"""The matrix scenario × policy, on frames small enough to do by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from analysis.matrix import gains, matrix, matrix_tables, pooled, scenario_of
from analysis.policies import split_of
from analysis.recovery import recovery, recovery_tables

LATENCIES = {
    ("lte", "none", "clairvoyant"): [90, 110],
    ("lte", "none", "dynamic"): [100, 110],
    ("lte", "none", "local"): [120, 120],
    ("lte", "none", "static:3"): [130, 150],
    ("high", "busy", "local"): [100, 100],
    ("high", "busy", "dynamic"): [125, 125],
}
COSTS = {
    ("lte", "clairvoyant", 0): 0.0,
    ("lte", "dynamic", 0): 0.03,
    ("lte", "dynamic", 1): 0.05,
    ("lte", "local", 0): 0.3,
    ("lte", "static:3", 0): 0.144,
}


def data(trials: int = 1) -> Any:
    rows = [
        {
            "link": link, "load": load, "policy": policy, "trial": trial,
            "device": "a", "kind": "measured",
            "status": "ok", "split": split, "e2e_ns": ms * 1e6, "late": 0.0, "t_s": float(i),
        }
        for trial in range(trials)
        for (link, load, policy), latencies in LATENCIES.items()
        for i, (ms, split) in enumerate(zip(latencies, ("3", "local"), strict=True))
    ]  # fmt: skip
    rows.append({**rows[0], "policy": "dynamic", "status": "dropped", "split": "", "t_s": 9.0})
    return SimpleNamespace(queries=pd.DataFrame(rows))


def test_regret_and_what_went_wrong_by_trial() -> None:
    found = matrix(data(2), {("lte", "dynamic", 0): 0.02}).set_index(
        ["scenario", "policy", "trial"]
    )
    dynamic = found.loc[("lte", "dynamic", 0)]
    assert (dynamic["n"], dynamic["dropped"], dynamic["switches"]) == (2, 1, 1)
    assert dynamic["mean_ms"] == 105
    assert dynamic["regret"] == pytest.approx(0.05)
    assert found.loc[("lte", "clairvoyant", 1), "regret"] == 0
    assert pd.isna(found.loc[("high + busy", "dynamic", 0), "regret"])
    assert pd.isna(dynamic["p95_ms"])
    assert dynamic["choice_cost"] == 0.02
    assert len(found) == 12


def test_winner_is_never_the_one_that_knows() -> None:
    table = pooled(data(), COSTS)
    winners = table[table["winner"]].set_index("scenario")["policy"]
    assert dict(winners) == {"lte": "dynamic", "high + busy": "local"}


def test_gains_against_the_best_static_in_hindsight() -> None:
    found = gains(pooled(data(), COSTS)).set_index("scenario")
    lte, high = found.loc["lte"], found.loc["high + busy"]
    assert (lte["best"], lte["best_ms"]) == ("local", 120)
    assert lte["dynamic_gain"] == pytest.approx(120 / 105 - 1)
    assert lte["clairvoyant_gain"] == pytest.approx(0.2)
    assert lte["worth"]
    assert lte["choice_gain"] == pytest.approx(1.144 / 1.04 - 1)
    assert lte["choice_regret"] == pytest.approx(0.04)
    assert pd.isna(high["choice_gain"])
    assert high["dynamic_gain"] == pytest.approx(-0.2)
    assert not high["worth"]


def test_tables_show_it_and_one_policy_alone_has_none() -> None:
    made = {table.name: table for table in matrix_tables(data(), COSTS)}
    assert set(made) == {"policies", "gains"}
    shown = made["policies"].cells
    assert len(shown) == len(LATENCIES)
    fastest = made["policies"].header.index("fastest")
    assert {row[fastest].text for row in made["policies"].cells} == {"yes", ""}
    assert len(made["gains"].frame) == 2
    assert "in 1 of 2 scenarios; there dynamic was faster than the best static in 1." in (
        made["gains"].note
    )
    alone = data()
    alone.queries = alone.queries[alone.queries["policy"] == "local"]
    assert matrix_tables(alone, {}) == []
    alone.queries = alone.queries.iloc[:0]
    assert matrix_tables(alone, {}) == []
    assert len(matrix(alone, {})) == 0


def test_names() -> None:
    assert scenario_of("lte", "none") == "lte"
    assert split_of("python:experiments.my_policy:Fastest") is None
    assert (split_of("static:3"), split_of("dynamic+hysteresis")) == ("3", None)


def outage_data() -> Any:
    rows = [(0.5, "ok", 90), (1.1, "fallback", 90), (1.5, "dropped", 0), (1.8, "fallback", 0),
            (2.3, "ok", 90), (3.2, "fallback", 90), (4.2, "ok", 0)]  # fmt: skip
    queries = pd.DataFrame(
        {
            "run_id": "r", "kind": "measured", "t_s": t_s, "status": status, "bytes_up": up,
            "e2e_ns": 0.1e9, "t_due_ns": 0.0, "t_start_ns": 0.0,
        }
        for t_s, status, up in rows
    )  # fmt: skip
    outages = [[10**9, 10**9], [3 * 10**9, 10**9]]
    run = SimpleNamespace(
        devices_of_links={"": []},
        uplink_of=lambda device: "uplink",
        run_id="r", link="gone", load="none", policy="dynamic", trial=0, duration_s=5.0,
        schedules={"uplink": {"outages": outages, "end": "hold"}},
    )  # fmt: skip
    local = SimpleNamespace(**{**vars(run), "policy": "local"})
    return SimpleNamespace(queries=queries, runs=(run, local))


def test_recovery_counts_from_the_links_return_to_the_first_that_crossed() -> None:
    found = recovery(outage_data())
    assert list(found["policy"]) == ["dynamic", "dynamic"]
    first, second = (found.iloc[i] for i in (0, 1))
    assert (first["due"], first["fallback"], first["dropped"], first["failed"]) == (3, 2, 1, 0)
    assert first["recovery_s"] == pytest.approx(0.4)
    assert pd.isna(second["recovery_s"])
    assert [table.name for table in recovery_tables(outage_data())] == ["outages"]
