"""How many questions a paired comparison needs, judged by what was observed."""

import math

__all__ = ["detectable_difference", "questions_needed"]

POWER = 0.8  # the chance to find the observed difference significant, if it is the true one


def questions_needed(
    difference: float, variance: float, *, level: float = 0.05, fixed_variance: float = 0.0
) -> int | None:
    """The questions with which the observed difference is significant with a chance of 80 %.

    The normal approximation for paired differences, n = ((z_a s_0 + z_b s_1) / d)^2. s_1^2 is the
    variance of the paired differences and s_0^2 = s_1^2 + d^2 the one under the null hypothesis.
    For verdicts s_0^2 is the share of discordant questions: the formula is then that of McNemar's
    test (Connor 1987, "Sample size for testing differences in proportions for the paired-sample
    design").

    Args:
        difference: of the means, as observed.
        variance: of the paired differences, as observed, times the design effect of clusters.
        level: of significance, two-sided.
        fixed_variance: of the mean difference, whatever the number of questions: that of the seeds.

    Returns:
        None where no difference was observed, or no number of questions is enough.
    """
    left = difference**2 - (_z(1 - level / 2) + _z(POWER)) ** 2 * fixed_variance
    if not difference or left <= 0:
        return None
    squared = difference**2
    root = _z(1 - level / 2) * math.sqrt(variance + squared) + _z(POWER) * math.sqrt(variance)
    return max(1, math.ceil(root**2 / left - 1e-9))


def detectable_difference(variance: float, questions: int, *, level: float = 0.05) -> float:
    """The difference that this number of questions shows significant with a chance of 80 %.

    Args:
        variance: of the paired differences where the means are equal: for verdicts the share of
            discordant questions.
    """
    return (_z(1 - level / 2) + _z(POWER)) * math.sqrt(variance / questions)


def _z(share: float) -> float:
    from scipy.special import ndtri  # takes a moment to import

    return float(ndtri(share))
