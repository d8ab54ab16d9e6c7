"""Scenario × policy: latency against the clairvoyant policy's, and what choosing was worth.

A scenario is one link under one load. Regret is ``mean ÷ the clairvoyant's mean − 1`` in the same
scenario (and trial); it is unknown where no clairvoyant run was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import mean_interval, needed_for_percentile
from analysis.dataset import Dataset
from analysis.metrics import by_policy, counted, measured, spread
from analysis.policies import DYNAMIC, policy_label, split_of
from analysis.tables import POLICY, Column, Table, count, num, number_range, share, text

CLAIRVOYANT = "clairvoyant"
_MS = 1e6

_FACTORS = ("link", "load", "trial", "policy", "device")
_NEEDED = ("kind", "status", "split", "t_s", "e2e_ns", "late")

# (scenario, policy, trial) → what the choices cost: :func:`analysis.hindsight.costs_by_trial`.
Costs = Mapping[tuple[str, str, int], float]


def scenario_of(link: str, load: str) -> str:
    """A scenario's name: the link, and the load where there is one."""
    return link if load == "none" else f"{link} + {load}"


def matrix(data: Dataset, costs: Costs) -> pd.DataFrame:
    """One row a scenario, policy and trial: n, mean, p95, regret, switches, what went wrong.

    ``switches`` counts changes of the split from one query to the next; ``p95_ms`` is NaN with too
    few queries to tell. ``choice_cost`` is of ``costs``.
    """
    rows = []
    for key, block in _due(data).groupby(["link", "load", "trial"], sort=False):
        link, load, trial = _names(key)
        for policy, due in by_policy(block):
            name = (scenario_of(link, load), policy, int(float(trial)))
            named = dict(zip(("scenario", "policy", "trial"), name, strict=True))
            rows.append({**named, **_figures(due), "choice_cost": costs.get(name, float("nan"))})
    found = pd.DataFrame(rows)
    return _with_regret(found, ["scenario", "trial"]) if len(found) else found


def _due(data: Dataset) -> pd.DataFrame:
    return measured(data.queries[[*_FACTORS, *_NEEDED]])


def _names(key: object) -> tuple[str, ...]:
    assert isinstance(key, tuple), "grouped by several columns"
    return tuple(str(part) for part in key)


def _figures(due: pd.DataFrame) -> dict[str, Any]:
    done = counted(due).sort_values("t_s")
    e2e_ms = done["e2e_ns"].to_numpy() / _MS
    enough = len(e2e_ms) >= needed_for_percentile(0.95)
    # Of each device by itself: queries of several lie between each other.
    splits = [rows["split"].to_numpy() for _, rows in done.groupby(["trial", "device"])]
    return {
        "n": len(done),
        "mean_ms": float(e2e_ms.mean()) if len(e2e_ms) else float("nan"),
        "p95_ms": float(np.quantile(e2e_ms, 0.95)) if enough else float("nan"),
        "switches": sum(int((of[1:] != of[:-1]).sum()) for of in splits),
        "late_share": float(due["late"].fillna(0).mean()),
        "fallback": int((due["status"] == "fallback").sum()),
        "failed": int((due["status"] == "failed").sum()),
        "dropped": int((due["status"] == "dropped").sum()),
    }


def _with_regret(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    bound = found[found["policy"] == CLAIRVOYANT].set_index(by)["mean_ms"]
    keys = pd.MultiIndex.from_frame(found[by]) if len(by) > 1 else pd.Index(found[by[0]])
    return found.assign(regret=found["mean_ms"] / bound.reindex(keys).to_numpy() - 1)


def pooled(data: Dataset, costs: Costs) -> pd.DataFrame:
    """One row a scenario and policy, all trials together, with the mean's interval.

    ``winner`` marks the least mean of a scenario, the clairvoyant policy's apart. ``choice_cost``
    is the mean of the trials'.
    """
    each: dict[tuple[str, str], list[float]] = {}
    for (scenario, policy, _), cost in costs.items():
        each.setdefault((scenario, policy), []).append(cost)
    rows = []
    for key, block in _due(data).groupby(["link", "load"], sort=False):
        link, load = _names(key)
        for policy, due in by_policy(block):
            done = counted(due).sort_values(["trial", "t_s"])
            series = [g["e2e_ns"].to_numpy() / _MS for _, g in done.groupby("trial")]
            if series:
                name = (scenario_of(link, load), policy)
                found = {**_figures(due), **spread("mean_ms", mean_interval(series))}
                named = dict(zip(("scenario", "policy"), name, strict=True))
                cost = float(np.mean(each[name])) if name in each else float("nan")
                rows.append({**named, **found, "choice_cost": cost})
    table = pd.DataFrame(rows)
    if not len(table):
        return table
    real = table["policy"] != CLAIRVOYANT
    least = table[real].groupby("scenario")["mean_ms"].transform("min").reindex(table.index)
    table["winner"] = real & (table["mean_ms"] == least)
    return _with_regret(table, ["scenario"])


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Per scenario what ``dynamic`` and ``clairvoyant`` gain over the best static in hindsight.

    A gain is ``static ÷ policy − 1``: positive is faster. ``worth`` marks the scenarios where the
    clairvoyant policy is more than 3 % faster than the best static: there choosing can pay.
    ``choice_gain`` and ``choice_regret`` are dynamic's by what the choices cost, against the
    static that would have cost least: what the machine did in one run and not in another is left
    out of them.
    """
    rows = []
    for scenario, block in table.groupby("scenario", sort=False):
        means = block.set_index("policy")["mean_ms"]
        static = means[[split_of(policy) is not None for policy in means.index]]
        if not len(static) or DYNAMIC not in means:
            continue
        best = str(static.idxmin())
        row: dict[str, Any] = {"scenario": scenario, "best": best, "best_ms": static[best]}
        for policy in (DYNAMIC, CLAIRVOYANT):
            row[f"{policy}_gain"] = static[best] / means.get(policy, float("nan")) - 1
        row["worth"] = bool(row[f"{CLAIRVOYANT}_gain"] > 0.03)
        row["regret"] = means[DYNAMIC] / means.get(CLAIRVOYANT, float("nan")) - 1
        costs = 1 + block.set_index("policy")["choice_cost"]
        row["choice_gain"] = costs[static.index].min() / costs[DYNAMIC] - 1
        row["choice_regret"] = costs[DYNAMIC] / costs.get(CLAIRVOYANT, float("nan")) - 1
        rows.append(row)
    return pd.DataFrame(rows)


# What went amiss, shown where anything did: seldom all of it, and the table is wide.
_MISSED: Mapping[str, Column] = {
    "late_share": ("late", share("late_share")),
    "fallback": ("fallback", count("fallback")),
    "dropped": ("dropped", count("dropped")),
}


def _paid(worth: pd.DataFrame) -> str:
    """In how many scenarios choosing could pay, and in how many of those it did."""
    could = worth[worth["worth"]]
    did = int((could[f"{DYNAMIC}_gain"] > 0).sum())
    return (
        f"Choosing could pay, by more than 3 %, in {len(could)} of {len(worth)} scenarios; there "
        f"dynamic was faster than the best static in {did}."
    )


def matrix_tables(data: Dataset, costs: Costs) -> list[Table]:
    """The matrix and the gains; none where there is one policy only."""
    table = pooled(data, costs)
    if not len(table) or table["policy"].nunique() < 2:
        return []
    made = [
        Table(
            "policies",
            "Every scenario, every policy",
            "Mean latency of all trials with its 95 % interval; regret is against the policy that "
            "knows rate and load. What the choices cost is against the best one at each moment, by "
            "the rates set and the load that was: runs in which the machine was slower than in "
            "others lose nothing by it. Switches are changes of the split; late ones missed the "
            "deadline or the camera's interval; dropped ones were due and never began, because the "
            "device was not done with those before.",
            table,
            (
                ("scenario", text("scenario")),
                POLICY,
                ("n", count("n")),
                ("mean ms", number_range("mean_ms")),
                ("fastest", lambda row: "yes" if row["winner"] else ""),
                ("regret", share("regret")),
                ("choices cost", share("choice_cost")),
                ("p95 ms", num("p95_ms")),
                ("switches", count("switches")),
                *(column for name, column in _MISSED.items() if (table[name] > 0).any()),
            ),
        )
    ]
    worth = gains(table)
    if len(worth):
        made.append(
            Table(
                "gains",
                "What choosing was worth",
                "Against the best static choice in hindsight, which nobody knows beforehand. Where "
                "the clairvoyant policy gains little, no policy can. The last two columns judge "
                "dynamic's choices alone, by the rates set and the load that was: two runs never "
                f"have the machine alike. {_paid(worth)}",
                worth,
                (
                    ("scenario", text("scenario")),
                    ("best static", lambda row: policy_label(row["best"])),
                    ("mean ms", num("best_ms")),
                    ("dynamic gains", share(f"{DYNAMIC}_gain")),
                    ("clairvoyant gains", share(f"{CLAIRVOYANT}_gain")),
                    ("regret", share("regret")),
                    ("choices gain", share("choice_gain")),
                    ("choices' regret", share("choice_regret")),
                ),
            )
        )
    return made
