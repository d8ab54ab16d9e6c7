"""Intervals: where they must lie, how often they hold, when there is too little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.bootstrap import (
    block_indices,
    mean_interval,
    needed_for_percentile,
    percentile_interval,
)


def test_percentiles_need_the_published_numbers_of_queries() -> None:
    assert [needed_for_percentile(share) for share in (0.90, 0.95, 0.99)] == [44, 90, 459]


def test_interval_of_a_constant_series_is_the_constant() -> None:
    found = mean_interval([np.full(50, 7.0)])
    assert (found.value, found.low, found.high) == (7.0, 7.0, 7.0)


def test_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    """95 % nominal; a bootstrap of 200 correlated values is known to fall a few percent short."""
    rng = np.random.default_rng(11)
    held, rounds = 0, 150
    for _ in range(rounds):
        noise = rng.normal(size=260)
        series = np.empty(260)
        series[0] = noise[0]
        for n in range(1, 260):
            series[n] = 0.5 * series[n - 1] + noise[n]
        found = mean_interval([series[60:]])
        held += found.low <= 0 <= found.high
    assert 0.87 <= held / rounds <= 0.99


def test_neighbours_that_are_alike_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    values = np.repeat(rng.normal(size=30), 10)
    alike = mean_interval([values])
    shuffled = mean_interval([rng.permutation(values)])
    assert alike.high - alike.low > 1.5 * (shuffled.high - shuffled.low)


def test_blocks_stay_within_a_series_and_run_on() -> None:
    indices = block_indices([30, 40], 200, np.random.default_rng(1))
    assert indices.shape == (200, 70)
    block = 9  # ceil(2 · 70^(1/3))
    starts = indices[:, ::block]
    inside = (starts <= 30 - block) | ((starts >= 30) & (starts <= 70 - block))
    assert inside.all()
    assert (np.diff(indices[:, :block], axis=1) == 1).all()


def test_too_few_for_an_interval_gives_the_value_alone() -> None:
    found = mean_interval([np.array([1.0, 3.0])])
    assert found.value == 2.0
    assert np.isnan(found.low)


@pytest.mark.parametrize(("n", "told"), [(89, False), (90, True)])
def test_p95_is_told_only_from_ninety_queries_on(n: int, told: bool) -> None:
    found = percentile_interval([np.arange(float(n))], 0.95)
    assert np.isfinite(found.value) == told
