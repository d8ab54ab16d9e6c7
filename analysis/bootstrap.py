"""Intervals for means and percentiles of a series whose neighbours are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


def block_indices(
    lengths: Sequence[int], resamples: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Moving-block resamples of concatenated series, ``(resamples, sum(lengths))`` indices.

    No block reaches from one series into the next; a series shorter than a block (a run that was
    cut short) gives none.
    """
    total = sum(lengths)
    block = min(block_length(total), max(lengths))
    spans = zip(lengths, np.cumsum(lengths), strict=True)
    starts = np.concatenate([np.arange(end - n, end - block + 1) for n, end in spans])
    chosen = generator.choice(starts, size=(resamples, ceil(total / block)))
    indices = chosen[:, :, None] + np.arange(block)
    return np.asarray(indices.reshape(resamples, -1)[:, :total], dtype=np.intp)


def _batches(lengths: Sequence[int]) -> Iterator[NDArray[np.intp]]:
    generator = np.random.default_rng(_SEED)
    size = max(1, min(RESAMPLES, _CHUNK_ELEMENTS // max(1, sum(lengths))))
    for first in range(0, RESAMPLES, size):
        yield block_indices(lengths, min(size, RESAMPLES - first), generator)


def interval(
    lengths: Sequence[int], statistic: Callable[[NDArray[np.intp]], Floats], value: float
) -> Interval:
    """The percentile interval of a statistic over moving-block resamples.

    Args:
        lengths: lengths of the series that were concatenated (one a trial); empty ones may be in.
        statistic: from indices ``(resamples, n)`` to one figure a resample, ``(resamples,)``.
        value: the statistic of the series as measured.
    """
    present = [n for n in lengths if n]
    if sum(present) < FEWEST:
        return Interval.unknown(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.concatenate([statistic(indices) for indices in _batches(present)])
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < RESAMPLES / 2:
        return Interval.unknown(value)
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def mean_interval(series: Sequence[Floats]) -> Interval:
    """Mean of several series together."""
    joined = np.concatenate(series)
    return interval(
        [len(part) for part in series],
        lambda indices: np.asarray(joined[indices].mean(axis=1)),
        float(joined.mean()),
    )


def percentile_interval(series: Sequence[Floats], share: float) -> Interval:
    """A percentile of several series together; all NaN where they hold too few to tell."""
    joined = np.concatenate(series)
    if len(joined) < needed_for_percentile(share):
        return Interval.unknown(float("nan"))
    return interval(
        [len(part) for part in series],
        lambda indices: np.asarray(np.quantile(joined[indices], share, axis=1)),
        float(np.quantile(joined, share)),
    )
