"""The answer in one sentence, with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import bins, metrics
from analysis.bootstrap import Floats, Interval
from analysis.dataset import Dataset
from analysis.formats import NARROW, known, number, percent
from analysis.policies import DYNAMIC, policy_label, split_of
from analysis.superiority import gain_over_cells


def condition_name(link: str, load: str) -> str:
    """A condition in running text."""
    return f"link {link}" + (f", load {load}" if load != "none" else "")


def _means(queries: pd.DataFrame) -> dict[str, float]:
    done = metrics.counted(queries, "e2e_ns")
    return {p: float(rows["e2e_ns"].mean()) / 1e6 for p, rows in metrics.by_policy(done)}


def answer(data: Dataset, queries: pd.DataFrame, binned: bins.Binned, link: str, load: str) -> str:
    """What one condition showed: dynamic against the best static choice, and who won when.

    ``binned`` are the same queries by :func:`analysis.bins.bin_tables`.
    """
    where = f"On {condition_name(link, load)}"
    means = _means(queries)
    if not means:
        return f"{where}, nothing was measured."
    statics = {p: mean for p, mean in means.items() if split_of(p) is not None}
    told = f"{where}, {_compared(binned, means, statics)}"
    if len(statics) > 1:
        told += f"; of the static choices, {_winners(binned)}"
    return f"{told} (counting {data.pixel_encoding} pixels and {data.feature_encoding} features)."


def _compared(binned: bins.Binned, means: dict[str, float], statics: dict[str, float]) -> str:
    if not statics:
        each = [f"{policy_label(p)} took {number(mean)} ms" for p, mean in means.items()]
        return f"{', '.join(each)} on average; no static choice was run"
    policy = min(statics, key=lambda p: statics[p])
    named = f"{policy_label(policy)}, {number(statics[policy])} ms"
    if DYNAMIC not in means:
        return f"the best static choice was {named} on average; dynamic was not run"
    took = f"dynamic took {number(means[DYNAMIC])} ms on average"
    found, _ = bins.gain(binned[DYNAMIC], binned[policy])
    if not known(found.value):
        return f"{took}; the best static choice, at other moments, was {named}"
    n = " and ".join(f"{binned[p]['n'].sum():.0f}" for p in (DYNAMIC, policy))
    return f"{took}, {against('the best static choice', named, found, n)}"


def against(other: str, aside: str, gain: Interval, n: str) -> str:
    """How dynamic fared against another: less or more, within what, or no difference shown.

    Args:
        other: what it is held against.
        aside: what is said of it in brackets.
        gain: 1 − dynamic's mean over the other's.
        n: how many queries of each.
    """
    told = _less_or_more(gain.value)
    if not known(gain.low):
        return f"{told} than {other} ({aside}), {_too_few(n)}"
    if gain.low <= 0 <= gain.high:
        return f"no difference shown from {other} ({aside}): {told} ({_within(gain, n)})"
    return f"{told} than {other} ({aside}; {_within(gain, n)})"


def _too_few(n: str) -> str:
    return f"too few to tell from chance (n = {n})"


def _within(gain: Interval, n: str) -> str:
    return f"95{NARROW}% interval {_from_to(gain.low, gain.high)}, n = {n}"


def _less_or_more(gain: float) -> str:
    """A gain in words: ``12 % less`` or ``3 % more``."""
    return f"{percent(abs(gain))} {'less' if gain >= 0 else 'more'}"


def _from_to(low: float, high: float) -> str:
    """Two gains, the lower first, in words that need no sign."""
    if low < 0 <= high:
        return f"from {_less_or_more(low)} to {_less_or_more(high)}"
    near, far = sorted((low, high), key=abs)
    ends = dict.fromkeys((percent(abs(near)), percent(abs(far))))
    return f"{' to '.join(ends)} {'less' if low >= 0 else 'more'}"


def _winners(binned: bins.Binned) -> str:
    shares = bins.fastest_kinds(bins.fastest(binned))
    said = [
        f"{'a split' if kind == 'split' else kind} for {percent(share)}"
        for kind, share in shares.items()
    ]
    return f"the fastest at the moment was {', '.join(said)} of the trace"


@dataclass(frozen=True)
class OverBest:
    """Dynamic against the static choice with the least mean under one condition."""

    gain: float  # 1 − dynamic's mean over the other's
    ratios: Floats  # the same means' ratio in each trial that has both


def over_best(queries: pd.DataFrame) -> OverBest | None:
    """How dynamic fared under one condition; None where it or every static choice is missing."""
    means = _means(queries)
    statics = {p: mean for p, mean in means.items() if split_of(p) is not None}
    if DYNAMIC not in means or not statics:
        return None
    best = min(statics, key=lambda policy: statics[policy])
    done = metrics.counted(queries, "trial", "e2e_ns")
    dynamic, static = (
        done[done["policy"] == policy].groupby("trial")["e2e_ns"].mean()
        for policy in (DYNAMIC, best)
    )
    return OverBest(1 - means[DYNAMIC] / statics[best], (dynamic / static).dropna().to_numpy())


def headline(answers: Sequence[str], conditions: Sequence[OverBest]) -> str:
    """One sentence over all conditions; the answer itself where there is only one.

    Its interval pairs dynamic and the best static choice by condition and trial.
    """
    if len(answers) == 1:
        return answers[0]
    if not answers:
        return "Nothing was measured."
    if not conditions:
        return f"{len(answers)} conditions were measured; each has its answer below."
    gains = [condition.gain for condition in conditions]
    ratios = np.concatenate([condition.ratios for condition in conditions])
    return (
        f"Over {len(gains)} conditions, dynamic against the best static choice of each: "
        f"{_over_all(gain_over_cells(np.log(ratios)), len(ratios))}. It took less in "
        f"{sum(gain > 0 for gain in gains)} of {len(gains)}; by condition, "
        f"{_from_to(min(gains), max(gains))}. Each has its answer, with its interval, below."
    )


def _over_all(gain: Interval, pairs: int) -> str:
    if not known(gain.value):
        return "no trial has both"
    told, n = f"{_less_or_more(gain.value)} time", f"{pairs} pairs by condition and trial"
    if not known(gain.low):
        return f"{told}, {_too_few(n)}"
    shown = "no difference shown, " if gain.low <= 0 <= gain.high else ""
    return f"{shown}{told} ({_within(gain, n)})"
