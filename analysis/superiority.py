"""Is one policy really faster than another? Effect size, probability, and p corrected for asking.

Policies are paired by condition, trial and moment of the trace, so that what the trace did to both
cancels. The comparison is on logarithms: a factor in latency counts the same at every rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap as scipy_bootstrap

from analysis.bins import Binned, common
from analysis.bootstrap import FEWEST, LEVEL, RESAMPLES, Floats, Interval, interval, resampled_sums
from analysis.metrics import counted, spread
from analysis.policies import DYNAMIC

_SEED = 20220525
_FEWEST_CELLS = 4  # conditions × trials, below which an interval over them says nothing


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction (1979): p of each test when the whole table is one question."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    so_far = 0.0
    for place, test in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - place) * p_values[test]))
        corrected[test] = so_far
    return [float(p) for p in corrected]


def superiority(tables: Binned, link: str, load: str) -> list[dict[str, Any]]:
    """Rows of one condition, from its bins: ``dynamic`` (if it was run) against every other.

    ``probability`` is the share of moments at which dynamic was the faster (a tie is half),
    ``effect`` the mean difference of the logarithms over its standard deviation (positive: dynamic
    was faster), ``p`` two-sided from circular-block resamples of that mean, not yet corrected.
    """
    rows = []
    for over in [policy for policy in tables if policy != DYNAMIC and DYNAMIC in tables]:
        both = common({"a": tables[DYNAMIC], "b": tables[over]})
        ratio = np.log(both["b"]["mean"].to_numpy() / both["a"]["mean"].to_numpy())
        if len(ratio) < FEWEST:
            continue
        lengths = [len(part) for _, part in both["a"].groupby(level="trial")]
        wins = (ratio > 0) + 0.5 * (ratio == 0)
        columns = [wins, np.ones(len(wins))]
        won = interval(lengths, columns, lambda sums, n: sums / n, float(wins.mean()))
        row: dict[str, Any] = {"link": link, "load": load, "over": over, "moments": len(ratio)}
        row |= spread("probability", won)
        row["effect"] = float(ratio.mean() / ratio.std(ddof=1)) if ratio.std() > 0 else None
        row["p"] = _p_value(lengths, ratio)
        rows.append(row)
    return rows


def _p_value(lengths: list[int], ratio: Floats) -> float:
    """Two-sided p of a mean of zero, by circular-block resamples about the mean as measured."""
    mean = float(ratio.mean())
    (drawn,) = resampled_sums([n for n in lengths if n], [ratio - mean])
    beyond = int((np.abs(drawn) >= abs(mean) * len(ratio)).sum())
    return (beyond + 1) / (RESAMPLES + 1)


def corrected(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of all conditions as one table with ``p_holm``."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return pd.DataFrame(rows)


def overall(queries: pd.DataFrame) -> pd.DataFrame:
    """Gain of dynamic over each policy across conditions and trials, each cell counting once.

    ``1 −`` geometric mean of the cells' ratios of mean latency, with a bootstrap interval (BCa)
    over the cells; a cell is one condition in one trial.
    """
    cell = ["link", "load", "trial", "policy"]
    cells = counted(queries, *cell, "e2e_ns").groupby(cell, observed=True)["e2e_ns"].mean()
    means = cells.unstack("policy")
    rows = []
    for over in [p for p in means.columns if p != DYNAMIC and DYNAMIC in means.columns]:
        logs = np.log((means[DYNAMIC] / means[over]).dropna().to_numpy())
        if len(logs) < _FEWEST_CELLS:
            continue
        gain = gain_over_cells(logs)
        rows.append({"over": over, "cells": len(logs), **spread("gain", gain)})
    return pd.DataFrame(rows)


def gain_over_cells(logs: Floats) -> Interval:
    """``1 −`` geometric mean of ratios, given as logarithms, one a condition and trial.

    The interval (BCa) redraws those cells; it is unknown where they are few.
    """
    mean = float(logs.mean()) if len(logs) else float("nan")
    if len(logs) < _FEWEST_CELLS:
        return Interval.unknown(1 - float(np.exp(mean)))
    low = high = mean
    if np.ptp(logs) > 0:
        found = scipy_bootstrap(
            (logs,),
            np.mean,
            confidence_level=LEVEL,
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(_SEED),
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    return Interval(*(1 - float(np.exp(end)) for end in (mean, high, low)))
