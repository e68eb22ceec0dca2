"""maj@k: how often a vote of k candidates is right, without the luck of the draw.

The vote of every subset of k of n candidates is counted, decided as ``voting.vote`` decides it. No
list of these subsets is needed: under most rules, what an answer counts depends on its own
candidates alone. So the subsets of each answer's candidates are ranked as the vote ranks them, and
polynomials combine the answers: the coefficient of z^m is in how many ways m candidates are chosen.
Under a ``JointVote`` seeded subsets are voted one by one.
"""

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from adapt_jax.prompting.voting import (
    VOTES,
    AnswerGroup,
    JointVote,
    get_log_probability,
    group_by_answer,
    normalize_reasoning,
    vote,
)
from adapt_jax.utils.errors import UserError

__all__ = ["maj_at_k"]

MAX_SUBSETS = 128  # of one answer and one size, that are ranked; of more, as many are drawn
MAX_COUNTED = 200  # candidates up to which answers are combined; the work grows with their cube
NUM_VOTES = 1000  # subsets that are voted one by one where there are more candidates

RankedSubsets = list[Int[np.ndarray, " S"]]  # of one answer: [m - 1] is the ranks of m candidates


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
    wrong. It is exact up to 10 candidates, and where no answer has more than 9. Of an answer with
    more, 128 seeded subsets of each size represent all: the sizes are counted exactly, and only
    repeats, weights and tie-breaks are estimated. Above 200 candidates the share is that of 1,000
    seeded subsets.

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
    if n > MAX_COUNTED or isinstance(VOTES.find(rule), JointVote):
        return {size: _average_votes(candidates, right, size, rule, seed) for size in sizes}
    groups = group_by_answer(candidates)
    if not right & groups.keys():
        return dict.fromkeys(sizes, 0.0)
    answers = _rank_subsets(candidates, groups, rule, seed)
    num_abstained = n - sum(map(len, answers.values()))
    abstentions = np.array([math.comb(num_abstained, m) for m in range(num_abstained + 1)], float)
    wins = np.zeros(n + 1)
    for answer in right & answers.keys():
        others = [ranks for other, ranks in answers.items() if other != answer]
        wins += np.convolve(_count_wins(answers[answer], others), abstentions)
    return {size: float(wins[size] / math.comb(n, size)) for size in sizes}


def _average_votes(
    candidates: Sequence[Any], right: set[str], size: int, rule: str, seed: int
) -> float:
    """The share of right votes among seeded subsets of a size."""
    rng = random.Random(f"maj_at_k/{seed}/{size}")
    subsets = (sorted(rng.sample(range(len(candidates)), size)) for _ in range(NUM_VOTES))
    votes = (vote([candidates[number] for number in subset], rule) for subset in subsets)
    return sum(one.answer in right for one in votes) / NUM_VOTES


def _rank_subsets(
    candidates: Sequence[Any], groups: Mapping[str, AnswerGroup], rule: str, seed: int
) -> dict[str, RankedSubsets]:
    """The ranks of each answer's subsets, sorted; the vote goes to the highest rank of a subset."""
    rng = np.random.default_rng(seed)
    keys: list[np.ndarray] = []
    for answer, group in groups.items():
        places = [place for place, one in enumerate(candidates) if one.answer == answer]
        keys += _list_keys(group, places, rule, rng)
    # lexsort takes the most important key last
    order = np.lexsort(np.concatenate(keys, axis=1)[::-1])
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(len(order))
    parts = iter(np.split(ranks, np.cumsum([key.shape[1] for key in keys])))
    return {
        answer: [np.sort(next(parts)) for _ in group.candidates] for answer, group in groups.items()
    }


def _list_keys(
    group: AnswerGroup, places: Sequence[int], rule: str, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "4 S"]]:
    """The values that ``vote`` compares, for subsets of 1, 2, ... of an answer's candidates.

    These are the count, the number of candidates, their log-probability, and minus the place of the
    first one. ``places`` are those of the group's candidates among all candidates.
    """
    total = len(group.candidates)
    texts = list(map(normalize_reasoning, group.candidates))
    units = np.array([texts.index(text) for text in texts])
    log_probabilities = np.array(list(map(get_log_probability, group.candidates)))
    orders = rng.permuted(np.tile(np.arange(total), (MAX_SUBSETS, 1)), axis=1)
    for size in range(1, total + 1):
        subsets = orders[:, :size]
        if math.comb(total, size) <= MAX_SUBSETS:
            subsets = np.array(list(combinations(range(total), size)))
        if rule == "majority":
            counts = np.full(len(subsets), size)
        elif rule == "distinct":
            sorted_units = np.sort(units[subsets], axis=1)
            counts = 1 + (np.diff(sorted_units, axis=1) > 0).sum(axis=1)
        else:
            count = VOTES.find(rule)
            assert not isinstance(count, JointVote), "its subsets are voted one by one"
            chosen = ([group.candidates[number] for number in subset] for subset in subsets)
            counts = np.array([count(AnswerGroup(some)) for some in chosen])
        sums = list(map(math.fsum, log_probabilities[subsets].tolist()))
        first = np.array(places)[subsets].min(axis=1)
        yield np.array([counts, np.full(len(subsets), size), sums, -first], float)


def _count_wins(own: RankedSubsets, others: Sequence[RankedSubsets]) -> Float[np.ndarray, " M"]:
    """Number of subsets that the answer wins, by size; none of them abstains."""
    ranks = np.concatenate(own)
    # 1. for each subset of the own candidates: the subsets of the others that all rank lower
    lower = np.ones((len(ranks), 1))
    for other in others:
        product = np.zeros((len(ranks), lower.shape[1] + len(other)))
        product[:, : lower.shape[1]] = lower
        for size, theirs in enumerate(other, 1):
            share = np.searchsorted(theirs, ranks) / len(theirs)
            ways = share * math.comb(len(other), size)
            product[:, size : size + lower.shape[1]] += lower * ways[:, None]
        lower = product
    # 2. the own candidates are added to them
    wins = np.zeros(len(own) + lower.shape[1])
    ends = np.cumsum(list(map(len, own)))
    for size, rows in enumerate(np.split(lower, ends)[:-1], 1):
        wins[size : size + lower.shape[1]] += rows.mean(axis=0) * math.comb(len(own), size)
    return wins
