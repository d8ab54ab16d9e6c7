"""Policies compared over the same moments of the trace: gain, winners, regret."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import Floats, Interval, interval
from analysis.metrics import by_policy, counted, spread
from analysis.policies import DYNAMIC, KINDS, kind_of, split_of

# A few queries long and a few rate steps long.
BIN_S = 0.5
_MS = 1e6
_INDEX = ("trial", "bin")

# Each policy's bins, as :func:`bin_tables` gives them.
Binned = dict[str, pd.DataFrame]


def _binned(done: pd.DataFrame, value: str) -> pd.DataFrame:
    begun_s, values_ms = done["t_s"].to_numpy(), done[value].to_numpy() / _MS
    ended_s = begun_s + done["e2e_ns"].to_numpy() / 1e9
    trials = sorted(done.groupby("trial").indices.items())
    parts = [_trial_bins(begun_s[own], ended_s[own], values_ms[own]) for _, own in trials]
    lengths = [len(means) for _, _, means in parts]
    places = [
        np.repeat([trial for trial, _ in trials], lengths),
        np.concatenate([np.arange(length) for length in lengths]),
    ]
    columns = zip(("sum", "n", "mean"), map(np.concatenate, zip(*parts, strict=True)), strict=True)
    return pd.DataFrame(dict(columns), index=pd.MultiIndex.from_arrays(places, names=_INDEX))


def _trial_bins(begun_s: Floats, ended_s: Floats, values_ms: Floats) -> tuple[Any, Any, Floats]:
    count = max(1, ceil(float(ended_s.max()) / BIN_S))
    place = (begun_s // BIN_S).astype(int)
    inside = (place >= 0) & (place < count)
    sums = np.bincount(place[inside], values_ms[inside], minlength=count)
    numbers = np.bincount(place[inside], minlength=count)
    # An empty bin has the mean of the last one that is not; those before the first have its.
    last = np.maximum.accumulate(np.where(numbers > 0, np.arange(count), -1))
    held = np.where(last < 0, np.argmax(numbers > 0), last)
    with np.errstate(invalid="ignore"):
        return sums, numbers, sums[held] / numbers[held]


def common(tables: Binned) -> Binned:
    """The tables cut to the bins that all of them have."""
    shared: Any = None
    for table in tables.values():
        shared = table.index if shared is None else shared.intersection(table.index)
    return {name: table.loc[shared.sort_values()] for name, table in tables.items()}


def _lengths(table: pd.DataFrame) -> list[int]:
    return [len(part) for _, part in table.groupby(level="trial")]


def gain(dynamic: pd.DataFrame, other: pd.DataFrame) -> tuple[Interval, Interval]:
    """How much less than the other's mean latency is dynamic's, over the same bins.

    ``1 − mean(dynamic)/mean(other)``, first each query weighing the same, then each moment of the
    trace. The interval redraws the same blocks of bins for both policies, so what the trace did to
    both cancels.
    """
    both = common({"a": dynamic, "b": other})
    a, b = both["a"], both["b"]
    if not len(a) or not a["n"].sum() or not b["n"].sum():
        return Interval.unknown(float("nan")), Interval.unknown(float("nan"))
    columns = [table[c].to_numpy(float) for table in (a, b) for c in ("sum", "n", "mean")]

    a_sum, a_n, a_mean, b_sum, b_n, b_mean = columns

    def by_query(a_sum: Any, a_n: Any, b_sum: Any, b_n: Any) -> Any:
        return 1 - (a_sum / a_n) / (b_sum / b_n)

    def by_moment(a_mean: Any, b_mean: Any) -> Any:
        return 1 - a_mean / b_mean

    def told(statistic: Callable[..., Any], *columns: Floats) -> Interval:
        value = float(statistic(*(column.sum() for column in columns)))
        return interval(_lengths(a), columns, statistic, value)

    return told(by_query, a_sum, a_n, b_sum, b_n), told(by_moment, a_mean, b_mean)


def gains(tables: Binned) -> pd.DataFrame:
    """Gain of ``dynamic`` over every other policy; positive means that dynamic was faster."""
    if DYNAMIC not in tables:
        return pd.DataFrame()
    rows = []
    for policy, table in tables.items():
        if policy != DYNAMIC:
            by_query, by_moment = gain(tables[DYNAMIC], table)
            row = {"over": policy, **spread("gain", by_query)}
            rows.append({**row, **spread("gain_by_moment", by_moment)})
    return pd.DataFrame(rows)


def bin_tables(queries: pd.DataFrame, value: str = "e2e_ns") -> Binned:
    """Queries of every policy that has a result, by the moment they began.

    Each is ``sum``, ``n`` and ``mean`` in ms over the index (trial, bin), for every bin up to the
    end of the last query. Where no query began, one begun earlier is still under way, and ``mean``
    is that of its bin.
    """
    done = counted(queries, "trial", "t_s", "e2e_ns", value)
    return {policy: _binned(rows, value) for policy, rows in by_policy(done)}


def fastest(tables: Binned) -> pd.DataFrame:
    """Per static policy the share of bins in which its mean latency was the least."""
    shared = common({p: t for p, t in tables.items() if split_of(p) is not None})
    if not shared or not len(next(iter(shared.values()))):
        return pd.DataFrame({"policy": [], "share": []})
    means = pd.DataFrame({policy: table["mean"] for policy, table in shared.items()})
    share = means.idxmin(axis=1).value_counts(normalize=True).reindex(means.columns, fill_value=0.0)
    return pd.DataFrame({"policy": share.index, "share": share.to_numpy()})


def fastest_kinds(shares: pd.DataFrame) -> dict[str, float]:
    """Shares of :func:`fastest` summed to ``local``, ``split``, ``offload``; only what was run."""
    kinds = shares["policy"].map(lambda policy: kind_of(split_of(policy) or policy))
    summed = shares["share"].groupby(kinds).sum()
    return {kind: float(summed[kind]) for kind in KINDS if kind in summed.index}


def regret(tables: Binned) -> pd.DataFrame:
    """Each policy against the clairvoyant one, which takes the best static choice of every bin.

    The clairvoyant mean is the least of several measured means, so it is somewhat too good.
    """
    shared = common(tables)
    statics = [p for p in shared if split_of(p) is not None]
    if not statics or not len(shared[statics[0]]):
        return pd.DataFrame()
    means = pd.DataFrame({policy: table["mean"] for policy, table in shared.items()})
    best = means[statics].min(axis=1)
    return pd.DataFrame(
        [
            {
                "policy": policy,
                "clairvoyant_ms": float(best.mean()),
                "regret_ms": float((means[policy] - best).mean()),
                "regret_share": float((means[policy] - best).mean() / best.mean()),
            }
            for policy in means
        ]
    )
