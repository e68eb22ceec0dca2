"""Intervals and tests against known values, and against what they promise."""

import math
import random

import pytest
from scipy.stats import binomtest

from adapt_jax.evaluation.significance import (
    count_disagreements,
    holm_correction,
    mcnemar,
    paired_difference,
    paired_p_value,
    wilson_interval,
)


def test_wilson_gives_the_published_intervals():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I
    for correct, total, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_within_zero_and_one_and_refuses_nothing():
    assert wilson_interval(7, 7)[1] == 1.0 and wilson_interval(0, 7)[0] == 0.0
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(3, 2)


def test_mcnemar_is_the_two_sided_sign_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    for first, second in [(3, 11), (400, 520)]:
        expected = binomtest(first, first + second).pvalue
        assert mcnemar(first, second) == pytest.approx(expected)


def test_values_equal_those_of_the_formulas():
    """The closed forms that scipy's replace: equal to 12 digits."""
    z = 1.959963984540054
    for total in (1, 2, 7, 60, 1000):
        for correct in {0, 1, total // 3, total - 1, total}:
            share = correct / total
            centre = (share + z * z / (2 * total)) / (1 + z * z / total)
            half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
            half /= 1 + z * z / total
            low, high = wilson_interval(correct, total)
            assert low == pytest.approx(max(0.0, centre - half), abs=1e-12)
            assert high == pytest.approx(min(1.0, centre + half), abs=1e-12)
            tail = sum(math.comb(total, k) for k in range(min(correct, total - correct) + 1))
            expected = min(1.0, 2 * tail / 2**total)
            assert mcnemar(correct, total - correct) == pytest.approx(expected, rel=1e-12)


def test_holm_corrects_step_by_step():
    # each p-value times the number of tests that are not smaller, never below an earlier one
    corrected = holm_correction({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm_correction({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm_correction({"a": 0.02}) == {"a": 0.02} and holm_correction({}) == {}


def test_only_disagreements_count():
    first = [True, True, False, False, True]
    second = [True, False, True, True, False]
    assert count_disagreements(first, second) == (2, 2)
    agreed = [True] * 50
    assert paired_p_value(first + agreed, second + agreed) == paired_p_value(first, second)
    with pytest.raises(ValueError, match="not paired"):
        count_disagreements([True], [])


def test_the_paired_difference_covers_the_true_one_about_95_percent_of_the_time():
    rng, covered, trials = random.Random(0), 0, 1500
    for _ in range(trials):
        both, first, second = 0.55, 0.25, 0.08  # the true difference is 0.17
        draws = rng.choices(range(4), (both, first, second, 1 - both - first - second), k=80)
        right_1, right_2 = [d in (0, 1) for d in draws], [d in (0, 2) for d in draws]
        _, low, high = paired_difference(right_1, right_2)
        covered += low <= first - second <= high
    assert 0.93 <= covered / trials <= 0.975


def test_pairing_narrows_the_interval_and_order_flips_it():
    rng = random.Random(1)
    first = [rng.random() < 0.8 for _ in range(300)]
    second = [right and rng.random() < 0.9 for right in first]  # nearly the same questions
    shuffled = rng.sample(second, len(second))
    difference, low, high = paired_difference(first, second)
    _, wide_low, wide_high = paired_difference(first, shuffled)
    assert low < difference < high and high - low < 0.6 * (wide_high - wide_low)
    assert paired_difference(second, first) == pytest.approx((-difference, -high, -low))


def test_identical_answers_differ_by_nothing():
    same = [True] * 30 + [False] * 10
    difference, low, high = paired_difference(same, same)
    assert difference == 0 and low < 0 < high and math.isclose(-low, high)
    assert paired_difference([True] * 5, [True] * 5)[0] == 0
