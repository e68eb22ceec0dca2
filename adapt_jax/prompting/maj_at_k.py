"""maj@k: how often a vote of k candidates is right, without the luck of the draw.

From n candidates the vote of every subset of k is counted, each decided exactly as ``voting.vote``
decides it. For the distinct and the majority vote this needs no list of the subsets: they are
counted answer by answer, with generating polynomials in the number of candidates.
"""

import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from adapt_jax.prompting.voting import (
    VOTES,
    AnswerGroup,
    get_log_probability,
    group_by_answer,
    normalize_reasoning,
    vote,
)
from adapt_jax.utils.errors import UserError

__all__ = ["maj_at_k"]

MAX_SUBSETS = 1000  # that are voted one by one; of more, as many are drawn at random
MAX_TIE_SUBSETS = 256  # of one answer, the same where a tie is broken by log-probability
MAX_COUNTED = 200  # candidates up to which subsets are counted; the polynomials grow with them

Ways = dict[tuple[int, int], int]  # (candidates chosen, count reached) -> in how many ways


def maj_at_k(
    candidates: Sequence[Any],
    right: Collection[str] | str,
    k: Iterable[int] | None = None,
    rule: str = "majority",
    *,
    seed: int = 0,
) -> dict[int, float]:
    """The share of all subsets of k candidates whose vote is right; an unbiased estimate.

    Ties are broken as ``vote`` breaks them, so at k = n it is 1 or 0, as ``vote`` is right or
    wrong. ``majority`` and ``distinct`` are exact up to 200 candidates, but for tie-breaks by
    log-probability among more than 256 subsets of one answer, of which 256 seeded ones are
    compared. Other rules are exact where there are at most 1,000 subsets, and otherwise the
    average over 1,000 seeded ones.

    Args:
        candidates: as ``vote`` takes them, drawn independently (not stopped early).
        right: the answers, in canonical form, that are right.
        k: sizes from 1 to n; by default 1, 2, 4, ... and n.

    Returns:
        k -> share, 0 to 1.

    Raises:
        UserError: there are no candidates, a k is out of range, or the rule is unknown.
    """
    VOTES.find(rule)
    n = len(candidates)
    sizes = sorted({n, *(2**i for i in range(n.bit_length()))} if k is None else set(k))
    if not candidates or sizes and not 1 <= sizes[0] <= sizes[-1] <= n:
        raise UserError(f"maj_at_k: k {sizes}; expected 1 to {n}, the number of candidates")
    right = {right} if isinstance(right, str) else set(right)
    if rule in ("majority", "distinct") and n <= MAX_COUNTED:
        return _count_right_subsets(candidates, right, sizes, rule)
    return {size: _average_over_subsets(candidates, right, size, rule, seed) for size in sizes}


def _average_over_subsets(
    candidates: Sequence[Any], right: set[str], size: int, rule: str, seed: int
) -> float:
    """The share of right votes among all subsets of a size, or among a seeded sample of them."""
    numbers = range(len(candidates))
    subsets: Iterable[Sequence[int]] = combinations(numbers, size)
    total = math.comb(len(candidates), size)
    if total > MAX_SUBSETS:
        rng = random.Random(f"maj_at_k/{seed}/{size}")
        subsets = [sorted(rng.sample(numbers, size)) for _ in range(MAX_SUBSETS)]
        total = MAX_SUBSETS
    votes = (vote([candidates[number] for number in subset], rule) for subset in subsets)
    return sum(one.answer in right for one in votes) / total


def _count_right_subsets(
    candidates: Sequence[Any], right: set[str], sizes: Sequence[int], rule: str
) -> dict[int, float]:
    """The share of subsets of each size that a right answer wins, by counting them."""
    numbers = {id(one): number for number, one in enumerate(candidates)}
    groups = {
        answer: _CountedAnswer(group, [numbers[id(one)] for one in group.candidates], rule)
        for answer, group in group_by_answer(candidates).items()
    }
    num_abstained = len(candidates) - sum(group.size for group in groups.values())
    shares = dict.fromkeys(sizes, 0.0)
    for answer in right & groups.keys():
        others = [group for other, group in groups.items() if other != answer]
        # wins[m] is the number of subsets with m candidates that do not abstain
        wins = _count_wins(groups[answer], others, sizes[-1])
        for size in sizes:
            for voting, number in enumerate(wins[: size + 1]):
                subsets = float(number) * math.comb(num_abstained, size - voting)
                shares[size] += subsets / math.comb(len(candidates), size)
    return shares


def _count_wins(
    own: "_CountedAnswer", others: Sequence["_CountedAnswer"], max_size: int
) -> np.ndarray:
    """Number of subsets that the answer wins, by size [max_size + 1]; none of them abstains."""
    wins = np.zeros(max_size + 1)
    for (chosen, count), ways in own.ways.items():
        if not 0 < chosen <= max_size:
            continue
        # 1. answers that cannot tie: their candidates must count less
        key = (count, chosen)
        losing = np.zeros(max_size + 1)
        losing[0] = 1
        rivals = [other for other in others if (chosen, count) in other.ways]
        for other in others:
            if other not in rivals:
                losing = np.convolve(losing, other.count_below(key, max_size))[: max_size + 1]
        # 2. answers that can tie: they count less, or lose the tie-break, which depends on the
        # subset of the own candidates; there is one row for each of these
        rows = losing[None]
        if rivals:
            tie_breaks = own.list_tie_breaks(chosen, count)
            rows = np.repeat(rows, len(tie_breaks), axis=0)
        for rival in rivals:
            below = rival.count_below(key, max_size)
            theirs = rival.list_tie_breaks(chosen, count)
            lost = np.searchsorted(theirs, tie_breaks) / len(theirs) * rival.ways[chosen, count]
            rows = _multiply(rows, below, lost, chosen)
        # 3. the own candidates are added to each subset
        mean = rows.mean(axis=0) * ways
        wins[chosen:] += mean[: max_size + 1 - chosen]
    return wins


def _multiply(rows: np.ndarray, below: np.ndarray, lost: np.ndarray, chosen: int) -> np.ndarray:
    """Rows of polynomials [R, K] times ``below`` [K] + ``lost`` [R] · z^chosen, cut at K."""
    length = rows.shape[1]
    product = np.zeros_like(rows)
    for power in np.flatnonzero(below):
        product[:, power:] += rows[:, : length - power] * below[power]
    product[:, chosen:] += rows[:, : length - chosen] * lost[:, None]
    return product


class _CountedAnswer:
    """One answer's candidates, grouped by what counts once: a reasoning, or each candidate."""

    def __init__(self, group: AnswerGroup, numbers: Sequence[int], rule: str):
        """``numbers`` are the places of the group's candidates among all candidates."""
        self.size = len(numbers)
        units: dict[Any, list[int]] = defaultdict(list)
        for place, one in enumerate(group.candidates):
            units[normalize_reasoning(one) if rule == "distinct" else place].append(place)
        # in one order of sizes, so that many questions share what is counted for their sizes
        by_size = sorted(units.values(), key=len, reverse=True)
        order = [place for unit in by_size for place in unit]
        self.unit_sizes = tuple(map(len, by_size))
        self.numbers = np.array([numbers[place] for place in order])
        self.log_probabilities = np.array(
            [get_log_probability(group.candidates[place]) for place in order]
        )
        self._tie_breaks: dict[tuple[int, int], np.ndarray] = {}

    @cached_property
    def ways(self) -> Ways:
        """In how many ways a number of its candidates reaches a count."""
        return _count_ways(self.unit_sizes)[0]

    def count_below(self, key: tuple[int, int], max_size: int) -> np.ndarray:
        """Ways to stay below (count, candidates), by the number of candidates [max_size + 1]."""
        below = np.zeros(max_size + 1)
        for (chosen, count), ways in self.ways.items():
            if (count, chosen) < key and chosen <= max_size:
                below[chosen] += ways
        return below

    def list_tie_breaks(self, chosen: int, count: int) -> np.ndarray:
        """What breaks a tie, for each subset of ``chosen`` candidates with this count; sorted.

        A complex number is the summed log-probability and, as its imaginary part, minus the place
        of the first candidate: numpy orders complex numbers by their real parts first.
        """
        if (chosen, count) not in self._tie_breaks:
            subsets = _list_subsets(self.unit_sizes, chosen, count)
            sums = list(map(math.fsum, self.log_probabilities[subsets].tolist()))
            first = self.numbers[subsets].min(axis=1)
            self._tie_breaks[chosen, count] = np.sort(np.array(sums) - 1j * first)
        return self._tie_breaks[chosen, count]


@lru_cache(maxsize=512)
def _count_ways(unit_sizes: tuple[int, ...]) -> list[Ways]:
    """In how many ways the units from each one on reach a count; a unit counts once if chosen."""
    suffixes: list[Ways] = [{(0, 0): 1}]
    for size in reversed(unit_sizes):
        ways: Ways = defaultdict(int)
        for (chosen, count), number in suffixes[0].items():
            ways[chosen, count] += number
            for more in range(1, size + 1):
                ways[chosen + more, count + 1] += number * math.comb(size, more)
        suffixes.insert(0, dict(ways))
    return suffixes


@lru_cache(maxsize=4096)
def _list_subsets(unit_sizes: tuple[int, ...], chosen: int, count: int) -> np.ndarray:
    """Subsets [S, chosen] of an answer's candidates that reach a count: all, or a seeded sample."""
    if _count_ways(unit_sizes)[0][chosen, count] > MAX_TIE_SUBSETS:
        return _draw_subsets(unit_sizes, chosen, count)
    return np.array(list(_enumerate_subsets(unit_sizes, 0, 0, chosen, count)))


def _enumerate_subsets(
    unit_sizes: tuple[int, ...], unit: int, start: int, chosen: int, count: int
) -> Iterator[tuple[int, ...]]:
    """All subsets from a unit on, whose first candidate has the place ``start``."""
    if unit == len(unit_sizes):
        yield ()
        return
    size, suffix = unit_sizes[unit], _count_ways(unit_sizes)[unit + 1]
    for number in range(size + 1):
        left = (chosen - number, count - bool(number))
        if left not in suffix:
            continue
        for part in combinations(range(start, start + size), number):
            for rest in _enumerate_subsets(unit_sizes, unit + 1, start + size, *left):
                yield part + rest


def _draw_subsets(unit_sizes: tuple[int, ...], chosen: int, count: int) -> np.ndarray:
    """Subsets that reach a count [MAX_TIE_SUBSETS, chosen], each drawn with equal probability."""
    rng = np.random.default_rng([chosen, count, *unit_sizes])
    drawn = np.zeros((MAX_TIE_SUBSETS, sum(unit_sizes)), bool)
    left = np.tile([chosen, count], (MAX_TIE_SUBSETS, 1))
    start, suffixes = 0, _count_ways(unit_sizes)
    for size, suffix in zip(unit_sizes, suffixes[1:], strict=True):
        # 1. how many of this unit: in proportion to the ways in which the rest can be completed
        numbers = np.zeros(MAX_TIE_SUBSETS, int)
        for state in np.unique(left, axis=0):
            rows = np.flatnonzero((left == state).all(axis=1))
            rest = [suffix.get((state[0] - n, state[1] - bool(n)), 0) for n in range(size + 1)]
            weights = np.array([math.comb(size, n) * float(ways) for n, ways in enumerate(rest)])
            numbers[rows] = rng.choice(size + 1, len(rows), p=weights / weights.sum())
        # 2. which ones: those of the lowest random ranks
        ranks = rng.random((MAX_TIE_SUBSETS, size)).argsort(axis=1).argsort(axis=1)
        drawn[:, start : start + size] = ranks < numbers[:, None]
        left -= np.stack([numbers, numbers > 0], axis=1)
        start += size
    return np.nonzero(drawn)[1].reshape(MAX_TIE_SUBSETS, chosen)
