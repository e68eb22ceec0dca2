"""Intervals and tests of means by the bootstrap, where values are graded or questions clustered."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = [
    "PairedBootstrap",
    "bootstrap_interval",
    "clustered_standard_error",
    "compare_by_bootstrap",
    "seed_interval",
]

NUM_RESAMPLES = 10_000
MAX_GROUPS = 5_000  # with more, the mean is normally distributed to all digits that are shown
MAX_DRAWN = 2_000_000  # indices in memory at once


@dataclass(frozen=True)
class PairedBootstrap:
    """The mean of paired differences, with its 95 % interval.

    Attributes:
        p_value: two-sided, for a mean of 0.
        standard_error: of the mean, clustered where clusters are given.
    """

    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of 10,000 seeded resamples.

    Efron and Tibshirani 1993, chapter 13. Of clustered values whole clusters are drawn. One value,
    or one cluster, has the interval of its mean alone.

    Raises:
        ValueError: there is no value, or clusters of another number.
    """
    sums, counts = _sum_groups(values, clusters)
    low, high = np.percentile(_resample_means(sums, counts, seed), [2.5, 97.5])
    return float(low), float(high)


def compare_by_bootstrap(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> PairedBootstrap:
    """Whether the mean of paired differences is 0: a paired bootstrap of 10,000 resamples.

    The p-value is twice the share of resampled means on the other side of 0 (Efron and Tibshirani
    1993, section 15.4), so it is below 0.05 where the 95 % interval leaves out 0. It is never below
    what so few differing questions can show: a sign test of m of them has no p-value below
    2 / 2^m.

    Args:
        differences: one for each question.
        clusters: the cluster of each question; whole clusters are drawn.

    Raises:
        ValueError: there is no difference, or clusters of another number.
    """
    sums, counts = _sum_groups(differences, clusters)
    means = _resample_means(sums, counts, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p_value = 2 * (tail + 1) / (len(means) + 1)
    differing = int(np.count_nonzero(sums))
    return PairedBootstrap(
        difference=float(sums.sum() / counts.sum()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, max(p_value, 2.0 ** (1 - differing))),
        standard_error=clustered_standard_error(differences, clusters),
    )


def clustered_standard_error(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> float:
    """The standard error of a mean; deviations are summed within clusters before they are squared.

    Without clusters it is the sample standard deviation divided by the root of the number. With
    them: "Adding Error Bars to Evals" (2411.00640), section 2.2, times G / (G - 1) for G clusters.
    A single value, or cluster, has none: nan.
    """
    array = np.asarray(values, float)
    sums, counts = _sum_groups(array - array.mean(), clusters)
    groups = len(sums)
    if groups < 2:
        return math.nan
    return float(math.sqrt((sums**2).sum() * groups / (groups - 1)) / counts.sum())


def seed_interval(means: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean over seeds, by Student's t; None for fewer than two."""
    from scipy.stats import t

    if len(means) < 2:
        return None
    array = np.asarray(means, float)
    half = t.ppf(0.975, len(means) - 1) * array.std(ddof=1) / math.sqrt(len(means))
    return float(array.mean() - half), float(array.mean() + half)


def _sum_groups(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """The sum of the values of each cluster, and their number; by default each is its own."""
    array = np.asarray(values, float)
    if not len(array):
        raise ValueError("there is no value")
    if clusters is None:
        return array, np.ones(len(array))
    if len(clusters) != len(array):
        raise ValueError(f"{len(array)} values, but {len(clusters)} clusters")
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    index = [numbers[cluster] for cluster in clusters]
    return np.bincount(index, array), np.bincount(index).astype(float)


def _resample_means(
    sums: Float[np.ndarray, " G"], counts: Float[np.ndarray, " G"], seed: int
) -> Float[np.ndarray, " R"]:
    """The means of resamples of groups, drawn with replacement."""
    rng = np.random.default_rng(seed)
    groups = len(sums)
    mean = sums.sum() / counts.sum()
    if groups > MAX_GROUPS:
        deviations = sums - mean * counts
        error = math.sqrt((deviations**2).sum()) / counts.sum()
        return mean + error * rng.standard_normal(NUM_RESAMPLES)
    parts = []
    at_once = max(1, MAX_DRAWN // groups)
    for start in range(0, NUM_RESAMPLES, at_once):
        size = min(at_once, NUM_RESAMPLES - start)
        drawn = rng.integers(0, groups, (size, groups))
        parts.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(parts)
