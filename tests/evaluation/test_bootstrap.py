"""Bootstrap intervals, clustered errors and numbers of questions, against closed forms."""

import math
import random

import numpy as np
import pytest
from scipy.stats import norm, t

from adapt_jax.evaluation.bootstrap import (
    bootstrap_interval,
    clustered_standard_error,
    compare_by_bootstrap,
    seed_interval,
)
from adapt_jax.evaluation.power import detectable_difference, questions_needed
from adapt_jax.evaluation.significance import mcnemar


def draw(number: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, number)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = draw(400)
    half = 1.96 * values.std() / 20
    expected = values.mean() - half, values.mean() + half
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.01)
    assert bootstrap_interval(values) == bootstrap_interval(values)  # seeded
    assert bootstrap_interval([0.3]) == pytest.approx((0.3, 0.3))
    many = draw(150_000)
    half = 1.96 * many.std() / math.sqrt(len(many))
    low, high = bootstrap_interval(many)
    assert (low, high) == pytest.approx((many.mean() - half, many.mean() + half), abs=half / 20)


def test_the_p_value_is_near_that_of_the_paired_t_test_and_agrees_with_the_interval():
    for shift in (0.0, 0.08, 0.12, 0.3):
        values = draw(300, shift, seed=3)
        found = compare_by_bootstrap(values)
        statistic = values.mean() / (values.std(ddof=1) / math.sqrt(300))
        assert found.p_value == pytest.approx(2 * t.sf(abs(statistic), 299), abs=0.015)
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
        assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(300))
    assert compare_by_bootstrap([0.0] * 9).p_value == 1.0


def test_few_questions_never_show_more_than_a_sign_test_of_them():
    assert compare_by_bootstrap([0.2, 0.3]).p_value >= 0.5
    assert compare_by_bootstrap([0.5]).p_value == 1.0
    assert compare_by_bootstrap([0.2] * 5 + [0.0] * 50).p_value >= mcnemar(5, 0) == 2 / 32
    # two clusters of many questions are two questions
    assert compare_by_bootstrap([0.2] * 50, ["a", "b"] * 25).p_value == 0.5


def test_clusters_widen_the_interval_as_their_closed_form_says():
    rng = random.Random(1)
    values, clusters = [], []
    for cluster in range(60):
        effect = rng.gauss(0, 1)
        for _ in range(5):
            values.append(effect + rng.gauss(0, 0.3))
            clusters.append(cluster)
    deviations = np.array(values) - np.mean(values)
    sums = deviations.reshape(60, 5).sum(axis=1)
    expected = math.sqrt((sums**2).sum() * 60 / 59) / 300
    error = clustered_standard_error(values, clusters)
    assert error == pytest.approx(expected) and error > 2 * clustered_standard_error(values)
    low, high = bootstrap_interval(values, clusters)
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.06)
    # clusters of one question each change nothing
    alone = clustered_standard_error(values, range(300))
    assert alone == pytest.approx(clustered_standard_error(values))
    assert math.isnan(clustered_standard_error([1.0, 2.0], ["a", "a"]))
    with pytest.raises(ValueError, match="2 values, but 1 clusters"):
        bootstrap_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="no value"):
        bootstrap_interval([])


def test_the_interval_over_seeds_is_that_of_student():
    means = [0.71, 0.74, 0.69, 0.73]
    half = t.ppf(0.975, 3) * np.std(means, ddof=1) / 2
    assert seed_interval(means) == pytest.approx((np.mean(means) - half, np.mean(means) + half))
    assert seed_interval([0.7]) is None and seed_interval([]) is None


def test_questions_needed_is_connors_formula_and_has_the_promised_power():
    # discordant shares 0.20 and 0.10: n = (1.96 sqrt(0.3) + 0.8416 sqrt(0.3 - 0.01))^2 / 0.01
    expected = (norm.ppf(0.975) * math.sqrt(0.3) + norm.ppf(0.8) * math.sqrt(0.29)) ** 2 / 0.01
    needed = questions_needed(0.1, 0.3 - 0.01)
    assert needed == math.ceil(expected) == 234
    assert questions_needed(0.0, 0.3) is None
    assert questions_needed(0.1, 0.29, level=0.025) > needed
    rng = np.random.default_rng(0)
    counts = rng.multinomial(needed, [0.2, 0.1, 0.7], size=1500)
    found = np.mean([mcnemar(int(first), int(second)) < 0.05 for first, second, _ in counts])
    assert found == pytest.approx(0.8, abs=0.04)
    # the difference that so many questions show is about the one that was asked about
    assert detectable_difference(0.3, needed) == pytest.approx(0.1, abs=0.002)
