"""Intervals, p values and Holm's correction against scipy and against published values, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from modelfactory.reporting.stats import Sample, holm, power

VALUES = np.random.default_rng(0).normal(0.3, 1.0, 40)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_t_interval_is_scipys(n: int, alpha: float):
    values = VALUES[:n]
    sample = Sample.of(values.tolist())
    low, high = stats.t.interval(1 - alpha, n - 1, values.mean(), stats.sem(values))
    assert (sample.n, sample.mean, sample.std) == (n, pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    assert sample.half_width(alpha) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_p_value_of_differences_is_that_of_scipys_paired_test(n: int):
    first, second = VALUES[:n], VALUES[20 : 20 + n]
    assert Sample.of((first - second).tolist()).p_zero() == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_students_own_example():
    """Student (1908), table of the sleep data: ten paired differences of mean 1.58, t = 4.0621, p = 0.00283."""
    gains = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    sample = Sample.of(gains)
    assert sample.mean == pytest.approx(1.58)
    assert sample.mean / (sample.std / math.sqrt(10)) == pytest.approx(4.0621, abs=1e-4)
    assert sample.p_zero() == pytest.approx(0.00283, abs=1e-5)


@pytest.mark.parametrize("values", [[0.5], [0.25, 0.25, 0.25], [0.1 + 0.2, 0.3]])
def test_numbers_without_spread_tell_nothing(values: list[float]):
    sample = Sample.of(values)
    assert math.isnan(sample.p_zero())
    assert sample.seeds_needed(0.05) is None


def test_holm_gives_published_values():
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") of R."""
    assert [test.p for test in holm([0.03, 0.01, 0.05, 0.02, 0.04])] == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert [test.p for test in holm([0.9, 0.8])] == [1.0, 1.0]
    assert holm([]) == []


def test_an_interval_leaves_out_0_exactly_where_holm_rejects():
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(50):
        samples = [Sample.of(rng.normal(shift, 1.0, 5).tolist()) for shift in (0, 0, 2, 3, 5)]
        for sample, test in zip(samples, holm([sample.p_zero() for sample in samples]), strict=True):
            assert (abs(sample.mean) > sample.half_width(test.level)) == (test.p < 0.05)
            rejected += test.p < 0.05
    assert 20 < rejected < 230  # the test sees both sides


@pytest.mark.parametrize("effect", [0.6, 1.0, 2.0])
def test_power_is_the_share_of_simulated_tests_that_find_the_effect(effect: float):
    rng, n, alpha, trials = np.random.default_rng(2), 9, 0.02, 4000
    found = stats.ttest_1samp(rng.normal(effect, 1.0, (trials, n)), 0.0, axis=1).pvalue < alpha
    expected = power(n, effect, alpha)
    assert abs(found.mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


def test_the_range_of_seeds_holds_the_right_number():
    """At least 90% of pilots of 5 seeds give a range that holds what the true effect needs (1: ten seeds at level 0.05)."""
    rng, trials = np.random.default_rng(3), 600
    right = next(n for n in range(2, 100) if power(n, 1.0, 0.05) >= 0.8)
    ranges = [Sample.of(values.tolist()).seeds_needed(0.05) or (None, None) for values in rng.normal(1.0, 1.0, (trials, 5))]
    holds = sum((low or 1001) <= right <= (high or 1001) for low, high in ranges)
    assert holds / trials > 0.9 - 3 * math.sqrt(0.09 / trials)


def test_pilots_of_no_effect_hardly_ever_promise_an_answer():
    """Of pilots of 3 seeds without any effect that are inconclusive, at most 5% say that 30 seeds are enough for sure."""
    samples = [Sample.of(values.tolist()) for values in np.random.default_rng(4).normal(0.0, 1.0, (400, 3))]
    ranges = [sample.seeds_needed(0.05) or (None, None) for sample in samples if sample.p_zero() > 0.05]
    assert sum(high is not None and high <= 30 for _, high in ranges) <= 0.05 * len(ranges)
