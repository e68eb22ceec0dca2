"""How sure a mean over questions and seeds is, where both are samples.

Score of question q under seed s: mean + effect of q + effect of s + rest. Another seed would give
another decoder, demonstrations or samples, another test split other questions, so both count
("crossed random effects", Clark 1973, "The language-as-fixed-effect fallacy"). Their variances are
estimated from the mean squares of the two-way layout (Searle, Casella and McCulloch 1992, section
4.4), and how well they are known by the degrees of freedom of Satterthwaite 1946.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adapt_jax.evaluation.significance import PairedTest, compare_paired, score_interval

__all__ = ["Runs", "compare_runs", "runs_interval", "seed_deviation", "seed_variance"]

Runs = Sequence[Sequence[float]]  # [S, Q]: the score of each question under each seed


@dataclass(frozen=True)
class _Error:
    """The variance of a mean, in the part of the questions and that of the seeds.

    Attributes:
        mean: over questions and seeds.
        questions: the part of the questions.
        seeds: the part of the seeds; 0 where the residuals explain their differences.
        seed_square: the seeds' mean square over the number of scores, whose degrees of freedom are
            ``num_seeds`` - 1 in Satterthwaite's formula.
    """

    mean: float
    questions: float
    seeds: float
    seed_square: float
    num_seeds: int

    @property
    def total(self) -> float:
        return self.questions + self.seeds


def seed_deviation(runs: Runs) -> float | None:
    """The standard deviation of the mean over seeds; None for fewer than two."""
    if len(runs) < 2:
        return None
    return float(np.asarray(runs, float).mean(axis=1).std(ddof=1))


def seed_variance(first: Runs, second: Runs) -> float:
    """The part of both methods' seeds in the variance of a difference of means.

    More questions do not lower it.
    """
    return sum(_measure_error(_to_array(runs)).seeds for runs in (first, second))


def runs_interval(runs: Runs) -> tuple[float, float]:
    """The 95 % interval of the mean score over questions and seeds; of shares within 0..1.

    One run has that of ``score_interval``. Several runs of verdicts (0 and 1) have Wilson's for the
    effective number of questions, as in surveys of clusters (Korn and Graubard 1998; Franco et al.
    2019); graded scores that of Student's t.

    Args:
        runs: [S, Q] for S seeds and Q questions.

    Raises:
        ValueError: there is no score, or runs of different questions.
    """
    if len(runs) == 1:
        return score_interval(runs[0])
    return _interval(_to_array(runs))


def compare_runs(first: Runs, second: Runs) -> PairedTest:
    """Compares the scores of two methods on the same questions, each over its own seeds.

    One run each are compared by ``compare_paired``. Otherwise the paired differences of the
    questions' means over seeds are tested by Student's t, whose variance holds that of the
    questions and that of each method's seeds. The p-value is never below that of a sign test in
    which all questions that differ agree. The interval joins those of the two means by their
    correlation over the questions (Newcombe 1998, method 10; Zou and Donner 2008).

    Raises:
        ValueError: the two do not hold the same number of questions.
    """
    if len(first) == len(second) == 1:
        return compare_paired(first[0], second[0])
    one, other = _to_array(first), _to_array(second)
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"not paired: {one.shape[1]} questions against {other.shape[1]}")
    differences = one.mean(axis=0) - other.mean(axis=0)
    found = float(differences.mean())
    low, high = _difference_interval(one, other)
    p_value = _t_test(found, differences, [_measure_error(one), _measure_error(other)])
    differing = int(np.count_nonzero(np.abs(differences) > 1e-12))
    p_value = min(1.0, max(p_value, 2.0 ** (1 - differing)))
    return PairedTest(found, low, high, p_value, "t_over_seeds")


def _to_array(runs: Runs) -> Float[np.ndarray, "S Q"]:
    array = np.array(runs, float)  # of runs of different lengths a ValueError
    if array.ndim != 2 or not array.size:
        raise ValueError("there is no score")
    return array


def _measure_error(scores: Float[np.ndarray, "S Q"]) -> _Error:
    """The parts of the variance of the mean."""
    seeds, questions = scores.shape
    mean = scores.mean()
    by_question, by_seed = scores.mean(axis=0), scores.mean(axis=1)
    of_questions = by_question.var(ddof=1) / questions if questions > 1 else 0.0
    if seeds == 1:
        return _Error(float(mean), float(of_questions), 0.0, 0.0, 1)
    rest = scores - by_question - by_seed[:, None] + mean
    rest_square = (rest**2).sum() / (max(1, questions - 1) * (seeds - 1))
    seed_square = questions * by_seed.var(ddof=1)
    of_seeds = max(0.0, seed_square - rest_square) / (questions * seeds)
    return _Error(
        float(mean),
        float(of_questions),
        float(of_seeds),
        float(seed_square / (questions * seeds)) if of_seeds else 0.0,
        seeds,
    )


def _t_quantile(question_part: float, questions: int, errors: Sequence[_Error]) -> float:
    """The number of standard errors of a 95 % interval."""
    from scipy.stats import t  # takes a moment to import

    return float(t.ppf(0.975, _count_degrees(question_part, questions, errors)))


def _count_degrees(question_part: float, questions: int, errors: Sequence[_Error]) -> float:
    """Satterthwaite's degrees of freedom."""
    total = question_part + sum(error.seeds for error in errors)
    squares = question_part**2 / max(1, questions - 1)
    squares += sum(
        error.seed_square**2 / (error.num_seeds - 1) for error in errors if error.seed_square
    )
    return max(1.0, total**2 / squares) if squares else float(max(1, questions - 1))


def _interval(scores: Float[np.ndarray, "S Q"]) -> tuple[float, float]:
    """The interval of a mean."""
    error = _measure_error(scores)
    mean, questions = error.mean, scores.shape[1]
    quantile = _t_quantile(error.questions, questions, [error])
    if not np.isin(scores, (0.0, 1.0)).all():
        half = quantile * math.sqrt(error.total)
        is_share = scores.min() >= 0 and scores.max() <= 1
        low, high = (0.0, 1.0) if is_share else (-math.inf, math.inf)
        return max(low, mean - half), min(high, mean + half)
    # Wilson's interval for as many independent questions as are worth the same variance
    spread = mean * (1 - mean)
    number: float = questions
    if spread:
        number = min(spread / error.total, scores.size) if error.total else scores.size
    square = quantile**2 / number
    center = (mean + square / 2) / (1 + square)
    half = math.sqrt(square * (spread + square / 4)) / (1 + square)
    low, high = max(0.0, center - half), min(1.0, center + half)
    # exact at the ends, whatever the rounding
    return (low if mean > 0 else 0.0), (high if mean < 1 else 1.0)


def _difference_interval(
    one: Float[np.ndarray, "S Q"], other: Float[np.ndarray, "S Q"]
) -> tuple[float, float]:
    """The intervals of two means on the same questions, joined by their correlation."""
    (low_1, high_1), (low_2, high_2) = _interval(one), _interval(other)
    first, second = _measure_error(one), _measure_error(other)
    questions = one.shape[1]
    correlation = 0.0
    if questions > 1 and first.total and second.total:
        covariance = np.cov(one.mean(axis=0), other.mean(axis=0))[0, 1] / questions
        correlation = float(covariance / math.sqrt(first.total * second.total))

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    difference = first.mean - second.mean
    low = difference - distance(first.mean - low_1, high_2 - second.mean)
    high = difference + distance(high_1 - first.mean, second.mean - low_2)
    return low, high


def _t_test(
    difference: float, differences: Float[np.ndarray, " Q"], errors: Sequence[_Error]
) -> float:
    """The two-sided p-value of a mean difference of 0."""
    from scipy.stats import t

    questions = len(differences)
    question_part = float(differences.var(ddof=1) / questions) if questions > 1 else 0.0
    variance = question_part + sum(error.seeds for error in errors)
    if not variance:
        return 1.0 if abs(difference) < 1e-12 else 0.0
    degrees = _count_degrees(question_part, questions, errors)
    return float(2 * t.sf(abs(difference) / math.sqrt(variance), degrees))
