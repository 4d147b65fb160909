"""Estimates against closed forms, independent references and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.estimate import Estimate, average, mcnemar, paired_difference, proportion


def binary(right: int, n: int) -> np.ndarray:
    return np.array([1.0] * right + [0.0] * (n - right))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_proportion_has_the_wilson_interval(counts: tuple[int, int]) -> None:
    right, n = counts
    estimate = proportion(binary(right, n))
    reference = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert estimate.value == pytest.approx(right / n)
    assert estimate.low == pytest.approx(reference.low, abs=1e-9)
    assert estimate.high == pytest.approx(reference.high, abs=1e-9)


def test_nothing_measured_is_no_number() -> None:
    for estimate in (proportion(np.array([])), paired_difference(np.array([]), np.array([]))):
        assert (estimate.value, estimate.low, estimate.high, estimate.n) == (None, None, None, 0)


def test_the_mean_over_equal_conditions_is_no_surer_than_one_of_them() -> None:
    one = binary(60, 100)
    assert proportion(np.mean([one, one, one], axis=0)) == proportion(one)


def test_the_mean_over_independent_conditions_is_surer() -> None:
    rng = np.random.default_rng(0)
    many = (rng.random((25, 400)) < 0.6).astype(float)
    one, mean = proportion(many[0]), proportion(many.mean(axis=0))
    assert one.high is not None
    assert one.low is not None
    assert mean.high is not None
    assert mean.low is not None
    assert (mean.high - mean.low) == pytest.approx((one.high - one.low) / 5, rel=0.15)


def bonett_price(better: int, worse: int, n: int) -> tuple[float, float]:
    """The interval as the paper writes it (2012, equation 3)."""
    p12, p21 = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = stats.norm.ppf(0.975) * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    return p12 - p21 - half, p12 - p21 + half


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 300))
def test_a_paired_difference_has_the_bonett_price_interval(better: int, worse: int, ties: int) -> None:
    n = better + worse + ties
    if n == 0:
        return
    before = np.array([0.0] * better + [1.0] * worse + [1.0] * ties)
    after = np.array([1.0] * better + [0.0] * worse + [1.0] * ties)
    estimate = paired_difference(before, after)
    low, high = bonett_price(better, worse, n)
    assert estimate.value == pytest.approx((better - worse) / n)
    assert estimate.low == pytest.approx(max(-1, low))
    assert estimate.high == pytest.approx(min(1, high))


def test_no_difference_seen_is_not_no_difference() -> None:
    same = binary(50, 100)
    estimate = paired_difference(same, same)
    assert estimate.value == 0
    assert estimate.high is not None
    assert 0.02 < estimate.high < 0.04


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths; got 2 and 3"):
        paired_difference(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("conditions", [1, 25])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_intervals_of_paired_differences_cover_the_truth(conditions: int, shared: float) -> None:
    """1,000 simulated runs of 120 pictures; ``shared`` of a picture's flips happen under all conditions at once."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        worse = np.where(
            rng.random((120, 1)) < shared, rng.random((120, 1)) < 0.04, rng.random((120, conditions)) < 0.04
        )
        before = np.ones(120)
        estimate = paired_difference(before, 1 - worse.mean(axis=1))
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= -0.04 <= estimate.high
    assert covered >= 940


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_mid_p_of_a_fair_coin(better: int, worse: int) -> None:
    total = better + worse
    p_value = mcnemar(better, worse)
    if total == 0:
        assert p_value == 1
        return
    exact = 2 * stats.binom.cdf(min(better, worse), total, 0.5) - stats.binom.pmf(min(better, worse), total, 0.5)
    assert p_value == pytest.approx(min(1.0, exact), abs=1e-9)
    assert mcnemar(worse, better) == p_value


def test_an_average_has_the_normal_interval_of_its_values() -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, 400)
    estimate = average(values, 3, "metres")
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (estimate.value, estimate.n, estimate.failed, estimate.unit) == (values.mean(), 403, 3, "metres")
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_one_value_has_no_interval_and_none_no_average() -> None:
    assert average(np.array([2.0]), 0, "x").low is None
    assert average(np.array([]), 2, "x") == Estimate(None, None, None, 2, 2, "x")
