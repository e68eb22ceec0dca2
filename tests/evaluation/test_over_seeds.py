"""Means over questions and seeds: intervals and tests that hold for new questions and new seeds."""

import numpy as np
import pytest

from adapt_jax.evaluation.bootstrap import clustered_standard_error
from adapt_jax.evaluation.over_seeds import (
    compare_runs,
    runs_interval,
    seed_deviation,
    seed_variance,
)
from adapt_jax.evaluation.power import questions_needed
from adapt_jax.evaluation.significance import compare_paired, score_interval, wilson_interval


def draw(rng, questions, seeds: int, deviation: float, level: float = 0.0) -> list[list[float]]:
    """Verdicts: logits are those of the question, plus one number for each seed."""
    logits = level + questions + deviation * rng.standard_normal((seeds, 1))
    return (rng.random((seeds, len(questions))) < 1 / (1 + np.exp(-logits))).astype(float).tolist()


@pytest.mark.parametrize("deviation", [0.0, 0.4])
def test_intervals_and_tests_hold_for_other_seeds_and_questions(deviation: float):
    """Simulated: 95 % of the intervals hold the truth, at most 5 % of equal methods differ."""
    rng = np.random.default_rng(0)
    holds, false, false_of_questions, repeats = 0, 0, 0, 150
    for _ in range(repeats):
        questions = 1.5 * rng.standard_normal(200)
        one, other = (draw(rng, questions, 3, deviation) for _ in range(2))
        low, high = runs_interval(one)
        holds += low <= 0.5 <= high  # by symmetry
        found = compare_runs(one, other)
        false += found.p_value < 0.05
        differences = np.mean(one, 0) - np.mean(other, 0)
        false_of_questions += abs(found.difference) > 1.96 * clustered_standard_error(differences)
    assert holds >= 0.9 * repeats and false <= 0.08 * repeats
    if deviation:  # a test of the questions alone takes the luck of a seed for a difference
        assert false_of_questions > 0.25 * repeats


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    questions = rng.standard_normal(200)
    found = compare_runs(draw(rng, questions, 3, 0.1, 1.5), draw(rng, questions, 3, 0.1))
    assert found.p_value < 0.01 and 0 < found.low < found.difference < found.high
    assert found.test == "t_over_seeds"


def test_one_run_each_is_compared_as_ever():
    one, other = [1.0, 0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert compare_runs([one], [other]) == compare_paired(one, other)
    assert runs_interval([one]) == score_interval(one) == wilson_interval(5, 6)
    graded = [0.1, 0.7, 0.4]
    assert runs_interval([graded]) == score_interval(graded)


def test_equal_runs_say_no_more_than_one():
    """Seeds that change nothing are no further questions."""
    run = [1.0] * 60 + [0.0] * 40
    assert runs_interval([run] * 5) == pytest.approx(wilson_interval(60, 100), abs=0.004)
    other = [1.0] * 45 + [0.0] * 55
    found, alone = compare_runs([run] * 5, [other]), compare_paired(run, other)
    assert found.difference == pytest.approx(alone.difference)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    assert seed_deviation([run] * 5) == 0 == seed_variance([run] * 5, [other])


def test_the_variance_is_that_of_the_two_way_layout():
    """By hand: questions 0.5, 0.5, 1, 0 and seeds 0.75, 0.25."""
    runs = [[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    # mean squares: seeds 4 * 0.125 = 0.5; rest 0.5 / 3
    assert seed_variance(runs, [[1.0, 0.0, 1.0, 0.0]]) == pytest.approx((0.5 - 0.5 / 3) / 8)
    assert seed_deviation(runs) == pytest.approx(0.125**0.5)
    assert seed_deviation(runs[:1]) is None


def test_the_ends_are_exact_and_few_questions_show_little():
    right, wrong = [[1.0] * 5] * 3, [[0.0] * 5] * 3
    low, high = runs_interval(right)
    assert 0.3 < low < 0.7 and high == 1.0
    assert runs_interval(wrong)[0] == 0.0
    found = compare_runs(right, wrong)
    assert found.difference == 1.0 and found.p_value == 2 / 2**5
    same = compare_runs(right, right)
    assert same.p_value == 1.0 and same.low < 0 < same.high
    assert compare_runs([[1.0]] * 2, [[0.0]] * 2).p_value == 1.0


def test_graded_scores_have_students_interval():
    runs = [[0.2, 0.4, 0.9, 0.5], [0.3, 0.4, 0.8, 0.7]]
    low, high = runs_interval(runs)
    means = np.mean(runs, 0)
    half = 3.182446 * means.std(ddof=1) / 2  # t of 3 degrees; seeds differ no more than the rest
    assert (low, high) == pytest.approx((max(0, means.mean() - half), min(1, means.mean() + half)))
    high_scores = [[20.0, 40.0, 90.0], [30.0, 40.0, 80.0]]
    assert runs_interval(high_scores)[1] > 90


def test_runs_have_to_answer_the_same_questions():
    with pytest.raises(ValueError):
        compare_runs([[1.0, 0.0]], [[1.0, 0.0, 1.0]] * 2)
    with pytest.raises(ValueError):
        runs_interval([[1.0, 0.0], [1.0]])
    with pytest.raises(ValueError):
        runs_interval([])


def test_no_number_of_questions_makes_up_for_seeds_that_differ():
    assert questions_needed(0.1, 0.25) == 202
    assert questions_needed(0.1, 0.25, fixed_variance=0.0005) > 202
    assert questions_needed(0.1, 0.25, fixed_variance=0.01) is None
