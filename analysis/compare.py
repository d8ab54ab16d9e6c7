"""Campaigns against each other: are they comparable, and how far do their figures differ?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import bins, metrics
from analysis.compare_page import letters, write_pages
from analysis.dataset import Dataset, load_dataset
from analysis.documents import Document
from analysis.figures.style import palette
from analysis.policies import policy_label, split_of
from analysis.replay import with_floor
from testbed.errors import UserError
from testbed.model.table import LOCAL, OFFLOAD

# What must be the same for latencies to be compared; model, hosts and source may differ.
_SAME = ("batch", "encoding", "loads", "probe")
_RUN = ("duration", "warmup_queries")


@dataclass(frozen=True)
class Campaign:
    """One campaign of a comparison."""

    name: str
    data: Dataset
    queries: pd.DataFrame


def load(folder: Path, name: str) -> Campaign:
    """Read a campaign for comparing; UserError where it is none."""
    data = load_dataset(folder)
    return Campaign(name, data, with_floor(data))


def obstacles(campaigns: Sequence[Campaign]) -> list[str]:
    """Why campaigns are not comparable with the first, one line each; empty where they are."""
    first, *others = campaigns
    broken = [obstacle for campaign in campaigns for obstacle in _broken(campaign.data)]
    apart = [
        f"{first.name} and {other.name}: {obstacle}"
        for other in others
        for obstacle in _apart(first.data, other.data)
    ]
    return [*broken, *apart]


def _broken(data: Dataset) -> Iterator[str]:
    told: dict[str, list[str]] = {}
    for run in data.runs:
        if run.state != "complete":
            told.setdefault(f"is {run.state}", []).append(run.run_id)
        elif run.altered or run.lines_lost:
            told.setdefault("is not as it was written", []).append(run.run_id)
    for what, (first, *rest) in told.items():
        more = f" (and so {len(rest)} more)" if rest else ""
        yield f"{data.root.name}/{first}: {what}{more}"


def _apart(a: Dataset, b: Dataset) -> Iterator[str]:
    for key in _SAME:
        yield from _differs(key, a.experiment.get(key), b.experiment.get(key))
    for key in _RUN:
        runs = [data.experiment.get("run", {}).get(key) for data in (a, b)]
        yield from _differs(f"run.{key}", *runs)
    shared = [condition for condition in a.conditions if condition in b.conditions]
    if not shared:
        yield f"no condition in common: {a.conditions} and {b.conditions}"
    for link, load in shared:
        first, second = (_schedules(data, link, load) for data in (a, b))
        if first != second:
            yield f"link {link}: the rates set over time are not the same"


def _differs(key: str, first: Any, second: Any) -> Iterator[str]:
    first, second = _in_both(first, second), _in_both(second, first)
    if first != second:
        yield f"{key}: {json.dumps(first)} and {json.dumps(second)}"


def _in_both(value: Any, other: Any) -> Any:
    """A document cut to the keys that both have: a newer release knows more of them."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {k: _in_both(v, other[k]) for k, v in value.items() if k in other}
    return value


def _schedules(data: Dataset, link: str, load: str) -> Document:
    run = next(r for r in data.runs if (r.link, r.load) == (link, load))
    return {side: (s["changes"], s["end"]) for side, s in run.schedules.items()}


def figures(campaign: Campaign) -> pd.DataFrame:
    """The headline figures with their intervals: mean latencies, and gains of dynamic."""
    rows: list[dict[str, Any]] = []
    for link, load in campaign.data.conditions:
        part = metrics.under(campaign.queries, link, load)
        place = {"link": link, "load": load}
        for row in metrics.latency(part).to_dict("records"):
            ends = {"low": row["mean_ms_low"], "high": row["mean_ms_high"]}
            figure = f"mean ms of {policy_label(row['policy'])}"
            rows.append({**place, "figure": figure, "value": row["mean_ms"], **ends})
        for row in bins.gains(bins.bin_tables(part)).to_dict("records"):
            ends = {"low": row["gain_low"], "high": row["gain_high"]}
            figure = f"gain of dynamic over {policy_label(row['over'])}"
            rows.append({**place, "figure": figure, "value": row["gain"], **ends})
    return pd.DataFrame(rows)


def reproduced(a: Campaign, b: Campaign) -> pd.DataFrame:
    """Each headline figure of both, and whether it falls in the other's interval."""
    both = figures(a).merge(figures(b), on=["link", "load", "figure"], suffixes=("_a", "_b"))
    both["b_in_a"] = both["value_b"].between(both["low_a"], both["high_a"])
    both["a_in_b"] = both["value_a"].between(both["low_b"], both["high_b"])
    both["difference"] = both["value_b"] / both["value_a"] - 1
    return both


def differences(a: Campaign, b: Campaign) -> pd.DataFrame:
    """Per condition and policy: how much longer B took than A, the same moments for both.

    ``difference`` is ``mean(B)/mean(A) − 1`` with a paired circular-block interval. Where the
    models differ, only the policies that mean the same for both are compared.
    """
    same_model = a.data.experiment.get("model") == b.data.experiment.get("model")
    rows = []
    for link, load in [c for c in a.data.conditions if c in b.data.conditions]:
        tables = [bins.bin_tables(metrics.under(c.queries, link, load)) for c in (a, b)]
        for policy in tables[0]:
            means_alike = same_model or split_of(policy) in (None, LOCAL, OFFLOAD)
            if policy not in tables[1] or not means_alike:
                continue
            found, _ = bins.gain(tables[1][policy], tables[0][policy])
            means = [t[policy]["sum"].sum() / t[policy]["n"].sum() for t in tables]
            rows.append(
                {
                    "link": link,
                    "load": load,
                    "policy": policy,
                    "a": a.name,
                    "b": b.name,
                    "mean_a_ms": float(means[0]),
                    "mean_b_ms": float(means[1]),
                    "difference": -found.value,
                    "difference_low": -found.high,
                    "difference_high": -found.low,
                }
            )
    return pd.DataFrame(rows)


def compare(folders: Sequence[Path], out: Path, force: bool) -> dict[str, Any]:
    """Compare campaigns with the first; writes ``comparison.{html,md,csv,pdf,png}`` into ``out``.

    Campaigns are called A, B and so on, as :func:`analysis.compare_page.letters` has them.
    Raises UserError naming every obstacle, unless forced; then the label stands in each output.
    """
    names = _short_names(folders)
    campaigns = [load(folder, name) for folder, name in zip(folders, names, strict=True)]
    first, *others = campaigns
    found = obstacles(campaigns)
    if found and not force:
        raise UserError(f"not comparable: {'; '.join(found)}; --force compares and labels it")
    parts = [
        differences(first, other).assign(campaign=letter)
        for other, letter in zip(others, letters(len(campaigns))[1:], strict=True)
    ]
    frame = pd.concat(parts, ignore_index=True)
    if not len(frame):
        raise UserError("not comparable: no policy under a condition that both have run")
    out.mkdir(parents=True, exist_ok=True)
    told = [_told(campaign.data, campaign.name) for campaign in campaigns]
    environments = [campaign.data.environments for campaign in campaigns]
    write_pages(frame, found, told, environments, palette(first.data), out)
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return {"forced": found, "campaigns": told, "differences": records, "out": str(out)}


def _short_names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _told(data: Dataset, name: str) -> dict[str, Any]:
    source = data.environments.get("orchestrator", {}).get("source", {})
    hosts = {h: e.get("cpu_model") for h, e in data.environments.items() if e.get("roles")}
    return {
        "name": name,
        "model": data.experiment.get("model", {}).get("name"),
        "revision": source.get("revision"),
        "hosts": hosts,
        "runs": len(data.runs),
        "valid": sum(run.validity == "valid" for run in data.runs),
    }


def headline_holds(frame: pd.DataFrame) -> bool:
    """Whether every headline figure falls in the other's interval, one way at least."""
    told = frame.dropna(subset=["low_a", "low_b"])
    return bool(np.all(told["a_in_b"] | told["b_in_a"]))
