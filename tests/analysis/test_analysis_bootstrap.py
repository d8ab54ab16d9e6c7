"""Intervals: where they must lie, how often they hold, when there is too little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.bootstrap import (
    block_starts,
    mean_interval,
    needed_for_percentile,
    percentile_interval,
    resampled_sums,
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


def test_blocks_begin_anywhere_within_a_series() -> None:
    starts = block_starts([30, 40], 4000, np.random.default_rng(1))
    block = 9  # ceil(2 · 70^(1/3))
    assert starts.shape == (4000, 8)
    wound = 30 + block - 1
    assert set(np.unique(starts)) == {*range(30), *range(wound, wound + 40)}


def test_a_slow_end_of_a_trace_weighs_as_much_as_its_middle() -> None:
    values = np.full(75, 50.0)
    values[-5:] = 800  # of each of three trials over the same trace
    found = mean_interval([values] * 3)
    assert found.low < found.value < found.high
    ones, drawn = resampled_sums([75] * 3, [np.ones(225), np.tile(values, 3)])
    assert drawn.mean() / ones.mean() == pytest.approx(found.value, rel=0.02)


def test_resamples_are_as_long_as_the_series_and_alike_for_every_column() -> None:
    values = np.random.default_rng(2).normal(size=70)
    ones, drawn, doubled = resampled_sums([30, 40], [np.ones(70), values, 2 * values])
    assert (ones == 70).all()
    np.testing.assert_allclose(doubled, 2 * drawn)
    assert abs(drawn.mean() - values.sum()) < drawn.std()


def test_interval_of_a_percentile_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    true = float(np.quantile(rng.exponential(size=10**6), 0.95))
    rounds = [percentile_interval([rng.exponential(size=400)], 0.95) for _ in range(150)]
    held = sum(found.low <= true <= found.high for found in rounds)
    assert 0.87 <= held / 150 <= 0.99


def test_too_few_for_an_interval_gives_the_value_alone() -> None:
    found = mean_interval([np.array([1.0, 3.0])])
    assert found.value == 2.0
    assert np.isnan(found.low)


@pytest.mark.parametrize(("n", "told"), [(89, False), (90, True)])
def test_p95_is_told_only_from_ninety_queries_on(n: int, told: bool) -> None:
    found = percentile_interval([np.arange(float(n))], 0.95)
    assert np.isfinite(found.value) == told


def test_seven_queries_have_a_median_and_no_interval() -> None:
    found = percentile_interval([np.arange(7.0)], 0.5)
    assert found.value == 3.0
    assert np.isnan(found.low)
