"""How sure a measured accuracy is, and whether one rung is really above another.

All methods are answered on the same questions, so the comparison is paired: only the questions on
which two methods disagree say anything about which of them is better.
"""

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson_interval(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), as shares in 0..1.

    Raises:
        ValueError: unless 0 <= correct <= total and total > 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total} questions is no proportion")
    share, square = correct / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    half /= 1 + square / total
    low = 0.0 if correct == 0 else centre - half  # exact at the ends, whatever the rounding
    high = 1.0 if correct == total else centre + half
    return low, high


def disagreements(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """(questions only the first got right, questions only the second got right).

    Raises:
        ValueError: when the two do not judge the same number of questions.
    """
    if len(first) != len(second):
        raise ValueError(f"not paired: {len(first)} judgements against {len(second)}")
    pairs = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947): were it a coin, how often so uneven?"""
    total, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**total)


def paired_p_value(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact McNemar p-value of two methods judged on the same questions."""
    return mcnemar(*disagreements(first, second))


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], z: float = Z95
) -> tuple[float, float, float]:
    """Accuracy of the first minus that of the second, with its score interval: (d, low, high).

    Newcombe 1998 ("Improved confidence intervals for the difference between binomial proportions
    based on paired data", method 10): two Wilson intervals joined by the correlation of the pairs.
    """
    only_first, only_second = disagreements(first, second)
    total = len(first)
    both = sum(a and b for a, b in zip(first, second, strict=True))
    neither = total - both - only_first - only_second
    share_1, share_2 = (both + only_first) / total, (both + only_second) / total
    low_1, high_1 = wilson_interval(both + only_first, total, z)
    low_2, high_2 = wilson_interval(both + only_second, total, z)
    margins = (both + only_first) * (only_second + neither)
    margins *= (both + only_second) * (only_first + neither)
    cross = float(both * neither - only_first * only_second)
    cross = max(cross - total / 2, 0.0) if cross > 0 else cross  # the paper's continuity correction
    phi = cross / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = share_1 - share_2
    low = difference - reach(share_1 - low_1, high_2 - share_2)
    high = difference + reach(high_1 - share_1, share_2 - low_2)
    return difference, low, high
