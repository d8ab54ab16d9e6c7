from __future__ import annotations

import random

import pytest

from testbed.policy.estimators import HeadEstimator, LoadEstimator, QueueEstimator, RateEstimator

MS, S, MBIT = 10**6, 10**9, 10**6
KB60 = 60_000


def span_ns(span_bytes: int, rate_bps: float) -> int:
    return round(span_bytes * 8e9 / rate_bps)


def feed(
    estimator: RateEstimator, rates: list[float], begin_ns: int = 0, pause_ns: int = 50 * MS
) -> list[int | None]:
    """One 60 kB span a rate and 50 ms; the estimate after each."""
    after = []
    for i, rate in enumerate(rates):
        estimator.add(begin_ns + i * pause_ns, KB60, span_ns(KB60, rate))
        after.append(estimator.rate_bps)
    return after


def test_no_sample_no_estimate() -> None:
    estimator = RateEstimator()
    assert estimator.rate_bps is None
    assert estimator.age_ns(5) is None


@pytest.mark.parametrize(("span_bytes", "span"), [(11_999, MS), (0, MS), (50_000, 0), (50_000, -1)])
def test_too_little_to_tell_is_no_estimate(span_bytes, span) -> None:
    estimator = RateEstimator()
    estimator.add(0, span_bytes, span)
    assert estimator.rate_bps is None
    assert estimator.age_ns(5) is None


def test_first_sample_is_the_estimate_and_ages() -> None:
    estimator = RateEstimator()
    estimator.add(100, 125_000, 100 * MS)
    assert estimator.rate_bps == 10 * MBIT
    assert estimator.age_ns(100 + 3 * S) == 3 * S
    assert estimator.rate_bps == 10 * MBIT  # old is better than nothing; the agent probes


@pytest.mark.parametrize("outlier", [0.45, 0.6, 1.5, 5.0])
def test_one_outlier_of_short_spans_is_ignored(outlier) -> None:
    rates = [30.0 * MBIT] * 3 + [30.0 * MBIT * outlier] + [30.0 * MBIT] * 2
    after = feed(RateEstimator(), rates)
    assert all(rate == pytest.approx(30 * MBIT, rel=1e-3) for rate in after)


def test_step_down_with_long_spans_is_believed_at_once() -> None:
    after = feed(RateEstimator(), [20.0 * MBIT] * 4 + [2.0 * MBIT])
    assert after[-1] == pytest.approx(2 * MBIT, rel=1e-3)


def test_step_up_from_a_slow_link_is_seen_with_the_first_sample() -> None:
    after = feed(RateEstimator(), [2.0 * MBIT] * 4 + [20.0 * MBIT], pause_ns=250 * MS)
    assert after[-1] == pytest.approx(20 * MBIT, rel=1e-3)


@pytest.mark.parametrize("new", [15.0, 39.0])
def test_step_between_fast_rates_is_believed_by_the_second_sample(new) -> None:
    after = feed(RateEstimator(), [25.0 * MBIT] * 4 + [new * MBIT] * 2)
    assert after[-1] == pytest.approx(new * MBIT, rel=1e-3)


def test_samples_from_before_a_pause_do_not_count() -> None:
    estimator = RateEstimator()
    feed(estimator, [30.0 * MBIT] * 3)
    assert feed(estimator, [15.0 * MBIT], begin_ns=S)[-1] == pytest.approx(15 * MBIT, rel=1e-3)


def test_noisy_samples_of_a_steady_link_stay_near_it() -> None:
    rng = random.Random(7)
    estimator = RateEstimator()
    errors, raw_errors = [], []
    for i in range(400):
        late_ns = rng.expovariate(1 / (5 * MS)) if rng.random() < 0.15 else 0
        span = span_ns(KB60, 20 * MBIT) + round(late_ns)
        estimator.add(i * 30 * MS, KB60, span)
        assert estimator.rate_bps is not None
        errors.append(abs(estimator.rate_bps / (20 * MBIT) - 1))
        raw_errors.append(abs(KB60 * 8e9 / span / (20 * MBIT) - 1))
    assert sum(errors) < sum(raw_errors) / 3


def loaded(ratios: list[float], pause_ns: int = 100 * MS) -> tuple[LoadEstimator, int]:
    """An estimator after replies of these ratios, and the time of the last one."""
    estimator = LoadEstimator()
    for i, ratio in enumerate(ratios):
        estimator.add(i * pause_ns, ratio)
    return estimator, (len(ratios) - 1) * pause_ns


def test_load_is_one_until_told_otherwise() -> None:
    estimator = LoadEstimator()
    assert estimator.value(0) == 1.0


def test_load_follows_within_two_replies_and_ignores_one_outlier() -> None:
    estimator, now_ns = loaded([1.0, 1.0, 1.0, 8.0])
    assert estimator.value(now_ns) == 1.0
    estimator, now_ns = loaded([1.0, 1.0, 3.0, 3.0])
    assert estimator.value(now_ns) == 3.0


def test_load_holds_for_a_second_then_forgets() -> None:
    estimator, now_ns = loaded([5.0, 5.0, 5.0])
    assert estimator.value(now_ns + S) == 5.0
    assert estimator.value(now_ns + 3 * S) == pytest.approx(3.0)
    assert estimator.value(now_ns + 5 * S) == pytest.approx(2.0)
    assert estimator.value(now_ns + 60 * S) == pytest.approx(1.0, abs=0.01)


def test_load_returns_at_the_first_reply_after_a_silence() -> None:
    estimator, now_ns = loaded([5.0, 5.0, 5.0])
    estimator.add(now_ns + 10 * S, 2.0)
    assert estimator.value(now_ns + 10 * S) == 2.0


def test_a_queue_that_stays_is_believed_and_one_that_flickers_is_averaged() -> None:
    queue = QueueEstimator()
    for i in range(20):
        queue.add(i * 300 * MS, 0.0)
    begun_ns = 20 * 300 * MS
    queue.add(begun_ns, 150.0)
    assert 75 < queue.value(begun_ns) < 90  # the newest weighs half, whatever was before
    queue.add(begun_ns + 300 * MS, 0.0)
    assert 0 < queue.value(begun_ns + 300 * MS) < 15
    for i in range(2, 20):
        queue.add(begun_ns + i * 300 * MS, 150.0)
    now_ns = begun_ns + 19 * 300 * MS
    assert (queue.value(now_ns), queue.high(now_ns)) == (150, 150)
    assert queue.value(now_ns + 3 * S) == pytest.approx(75)


def head_of(heads: HeadEstimator, split: str) -> float:
    return heads.own.get(split, 1.0) * heads.slowdown


def test_heads_are_averaged_towards_the_profile_and_forgotten() -> None:
    heads = HeadEstimator()
    heads.add(0, "3", 2.5)
    assert 1.5 < head_of(heads, "3") < 2  # what is expected counts as two more
    for i in range(20):
        heads.add(i * 100 * MS, "3", 0.7)
    assert head_of(heads, "3") == pytest.approx((12 * 0.7 + 2 * heads.slowdown) / 14)
    heads.forget(60 * S)
    assert (head_of(heads, "3"), heads.slowdown) == (1, 1)


def test_a_slow_device_is_told_from_one_slow_split() -> None:
    """The more splits agree, the more of it is believed of those that did not run."""
    one, two = HeadEstimator(), HeadEstimator()
    for i in range(12):
        one.add(i * 100 * MS, "3", 1.6)
        two.add(i * 100 * MS, "3", 1.6)
        two.add(i * 100 * MS, "5", 1.6)
    assert 1.2 < head_of(one, "local") < 1.3 < head_of(two, "local") < 1.4
    assert head_of(one, "3") == pytest.approx(1.6, rel=0.05)
    for i in range(12):
        two.add(i * 100 * MS, "5", 0.4)  # they agree no more
    assert head_of(two, "local") == pytest.approx(1)
    assert head_of(two, "3") > 1.4 > 0.6 > head_of(two, "5")
