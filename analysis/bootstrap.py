"""Intervals for means and percentiles of a series whose neighbours are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, exp, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 20220525
_CHUNK_ELEMENTS = 2_000_000  # bounds the memory of one batch of resamples (16 MB)
FEWEST = 8  # below this a resampled interval says nothing


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; the ends are NaN where there is too little to tell."""

    value: float
    low: float
    high: float

    @classmethod
    def unknown(cls, value: float) -> Interval:
        """A figure without an interval."""
        return cls(value, float("nan"), float("nan"))


def needed_for_percentile(share: float, confidence: float = 0.99) -> int:
    """Queries needed before the largest one bounds a percentile: ``1 − shareⁿ ≥ confidence``.

    459 for p99, 90 for p95, 44 for p90 (the rule of MLPerf LoadGen).
    """
    return ceil(log(1 - confidence) / log(share))


def block_length(count: int) -> int:
    """Length of a block: grows with the cube root of the series (Künsch 1989), twice over.

    Doubled because a bandwidth trace keeps its level over several queries.
    """
    return max(1, min(count, ceil(2 * exp(log(count) / 3))))


def block_starts(
    lengths: Sequence[int], resamples: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Where the blocks of circular resamples begin in series that were wound by :func:`_wound`.

    Returns ``(resamples, blocks)``, each block :func:`block_length` long (no longer than the
    longest series), the last one cut so that a resample is as long as the series together. A block
    that reaches a series' end goes on at its beginning (Politis and Romano 1992): without that the
    ends are drawn too seldom, and a slow beginning or end of a trace lies outside the interval.
    """
    total, block = sum(lengths), _block_of(lengths)
    firsts = np.cumsum([0, *(n + block - 1 for n in lengths[:-1])])
    starts = np.concatenate(
        [np.arange(first, first + n) for first, n in zip(firsts, lengths, strict=True)]
    )
    return np.asarray(generator.choice(starts, size=(resamples, ceil(total / block))), np.intp)


def _block_of(lengths: Sequence[int]) -> int:
    return min(block_length(sum(lengths)), max(lengths))


def _wound(column: Floats, lengths: Sequence[int], block: int) -> Floats:
    """Each series with its beginning once more behind its end, as much as a block may reach."""
    parts = np.split(column, np.cumsum(lengths)[:-1])
    return np.concatenate([np.resize(part, len(part) + block - 1) for part in parts])


def resampled_sums(lengths: Sequence[int], columns: Sequence[Floats]) -> list[Floats]:
    """Sums of each column over the same circular-block resamples, ``(RESAMPLES,)`` each.

    Only sums over whole blocks are drawn, from running totals: a million values take no longer than
    a few thousand.
    """
    total, block = sum(lengths), _block_of(lengths)
    generator = np.random.default_rng(_SEED)
    totals = [
        np.concatenate([[0.0], np.cumsum(_wound(column, lengths, block))]) for column in columns
    ]
    blocks = [running[block:] - running[:-block] for running in totals]
    last = total - block * (ceil(total / block) - 1)  # what is left for the last block
    size = max(1, min(RESAMPLES, _CHUNK_ELEMENTS // ceil(total / block)))
    drawn: list[list[Floats]] = [[] for _ in columns]
    for first in range(0, RESAMPLES, size):
        starts = block_starts(lengths, min(size, RESAMPLES - first), generator)
        cut = starts[:, -1]
        for sums, running, whole in zip(drawn, totals, blocks, strict=True):
            taken = whole[starts]
            taken[:, -1] = running[cut + last] - running[cut]
            sums.append(taken.sum(axis=1))
    return [np.concatenate(sums) for sums in drawn]


def interval(
    lengths: Sequence[int],
    columns: Sequence[Floats],
    statistic: Callable[..., Floats],
    value: float,
) -> Interval:
    """The percentile interval of a statistic of sums over circular-block resamples.

    Args:
        lengths: lengths of the series that were concatenated (one a trial); empty ones may be in.
        columns: the series, concatenated; every column is resampled at the same places.
        statistic: from each column's sums ``(resamples,)`` to one figure a resample.
        value: the statistic of the series as measured.
    """
    present = [n for n in lengths if n]
    if sum(present) < FEWEST:
        return Interval.unknown(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = statistic(*resampled_sums(present, columns))
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < RESAMPLES / 2:
        return Interval.unknown(value)
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def mean_interval(series: Sequence[Floats]) -> Interval:
    """Mean of several series together."""
    joined = np.concatenate(series)
    # About zero, so that running totals of a constant series are exact.
    centre = float(joined[0]) if len(joined) else 0.0
    return interval(
        [len(part) for part in series],
        [joined - centre],
        lambda sums: sums / len(joined) + centre,
        float(joined.mean()),
    )


def percentile_interval(series: Sequence[Floats], share: float) -> Interval:
    """A percentile of several series together; all NaN where they hold too few to tell.

    Woodruff's interval (1952): that of the share of values up to the percentile, by such blocks,
    carried back through the distribution.
    """
    joined = np.concatenate(series)
    if len(joined) < needed_for_percentile(share):
        return Interval.unknown(float("nan"))
    value = float(np.quantile(joined, share))
    below = interval(
        [len(part) for part in series],
        [(joined <= value).astype(float)],
        lambda sums: sums / len(joined),
        float((joined <= value).mean()),
    )
    if np.isnan(below.low):  # as many as tell the percentile, too few to resample
        return Interval.unknown(value)
    shares = np.clip([share - below.high + below.value, share + below.value - below.low], 0, 1)
    low, high = np.quantile(joined, shares)
    return Interval(value, float(low), float(high))
