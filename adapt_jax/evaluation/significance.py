"""How sure a measured accuracy is, and whether one rung is really above another.

All methods answer the same questions, so the comparison is paired: only the questions on which two
methods disagree say anything about which of them is better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from adapt_jax.evaluation.bootstrap import bootstrap_interval, compare_by_bootstrap

__all__ = [
    "PairedTest",
    "compare_paired",
    "count_disagreements",
    "holm_correction",
    "mcnemar",
    "paired_difference",
    "paired_p_value",
    "score_interval",
    "wilson_interval",
]


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), as shares in 0..1.

    Raises:
        ValueError: unless 0 <= correct <= total and total > 0.
    """
    from scipy.stats import binomtest  # takes a moment to import

    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total} questions is no proportion")
    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    # exact at the ends, whatever the rounding
    low = 0.0 if correct == 0 else float(interval.low)
    high = 1.0 if correct == total else float(interval.high)
    return low, high


def score_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean score: Wilson's of verdicts (0 and 1), else by bootstrap.

    Raises:
        ValueError: there is no score.
    """
    if _are_verdicts(scores):
        return wilson_interval(round(sum(scores)), len(scores))
    return bootstrap_interval(scores)


def _are_verdicts(scores: Sequence[float]) -> bool:
    return all(score in (0, 1) for score in scores)


@dataclass(frozen=True)
class PairedTest:
    """The mean of the first minus that of the second, its 95 % interval, and a p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    test: Literal["mcnemar", "paired_bootstrap", "t_over_seeds"]


def compare_paired(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> PairedTest:
    """Compares the scores of two methods on the same questions.

    Verdicts (0 and 1) by Newcombe's interval and McNemar's exact test, graded scores by a paired
    bootstrap.

    Args:
        seed: of the bootstrap.

    Raises:
        ValueError: the two do not hold the same number of questions.
    """
    if _are_verdicts(first) and _are_verdicts(second):
        one, other = list(map(bool, first)), list(map(bool, second))
        return PairedTest(*paired_difference(one, other), paired_p_value(one, other), "mcnemar")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    found = compare_by_bootstrap(differences, seed=seed)
    return PairedTest(found.difference, found.low, found.high, found.p_value, "paired_bootstrap")


def count_disagreements(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """(questions that only the first got right, questions that only the second got right).

    Raises:
        ValueError: the two do not hold the same number of questions.
    """
    if len(first) != len(second):
        raise ValueError(f"not paired: {len(first)} questions against {len(second)}")
    pairs = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947): a binomial test on the disagreements."""
    from scipy.stats import binomtest

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def paired_p_value(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact McNemar p-value of two methods that answered the same questions."""
    return mcnemar(*count_disagreements(first, second))


def holm_correction(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for the number of tests, by Holm's step-down procedure (1979).

    A test is significant at a level where its corrected value is below it; the chance that any
    true null hypothesis is rejected then stays below that level.
    """
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """Accuracy of the first minus that of the second, with its 95 % interval: (d, low, high).

    Newcombe 1998 ("Improved confidence intervals for the difference between binomial proportions
    based on paired data", method 10): two Wilson intervals, joined by the correlation of the pairs.
    """
    only_first, only_second = count_disagreements(first, second)
    total = len(first)
    both = sum(a and b for a, b in zip(first, second, strict=True))
    neither = total - both - only_first - only_second
    share_1, share_2 = (both + only_first) / total, (both + only_second) / total
    low_1, high_1 = wilson_interval(both + only_first, total)
    low_2, high_2 = wilson_interval(both + only_second, total)
    # the correlation phi of the two-by-two table
    margins = (both + only_first) * (only_second + neither)
    margins *= (both + only_second) * (only_first + neither)
    cross = float(both * neither - only_first * only_second)
    cross = max(cross - total / 2, 0.0) if cross > 0 else cross  # the paper's continuity correction
    phi = cross / math.sqrt(margins) if margins else 0.0

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = share_1 - share_2
    low = difference - distance(share_1 - low_1, high_2 - share_2)
    high = difference + distance(high_1 - share_1, share_2 - low_2)
    return difference, low, high
