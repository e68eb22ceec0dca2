"""Ways of choosing demonstrations that do not depend on the question.

A selector is registered under the name that ``demonstrations.select`` takes:

    @SELECTORS.register("shortest")
    def select_shortest(context):
        by_length = sorted(context.pool, key=lambda one: len(one.question))
        return context.take_fitting(by_length)
"""

import itertools
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from adapt_jax.prompting.retriever import rank_by_mmr
from adapt_jax.prompting.similarity import Similarity
from adapt_jax.tasks.example import Example
from adapt_jax.utils.registry import Registry

__all__ = ["SELECTORS", "SelectionContext", "Selector", "jaccard", "word_set"]

NUM_COMPARED = 16  # examples that compete for each place
MAX_MISSES = 16  # examples in a row that do not fit; then none is tried any more
DIVERSITY = 0.5  # of ``diverse``, unless the options say otherwise


@dataclass(frozen=True)
class SelectionContext:
    """What a selector chooses from, and what it has to respect.

    Attributes:
        pool: training examples that may be shown, in an order that the seed draws.
        fixed: the examples that the options name, in their order.
        count: the most that are shown.
        rng: draws that depend on the seed alone.
        fits: whether these examples fit, shown in this order.
        diversity: 0 to 1; None leaves it to the selector.
        index: makes the similarity between examples.
        pool_size: the most examples that are compared with all others.
    """

    pool: list[Example]
    fixed: list[Example]
    count: int
    rng: random.Random
    fits: Callable[[Sequence[Example]], bool]
    index: Callable[[Sequence[Example]], Similarity]
    diversity: float | None = None
    pool_size: int = 2000

    def take_fitting(self, order: Iterable[Example]) -> list[Example]:
        """The first ``count`` examples of an order; one that does not fit is left out whole."""
        chosen: list[Example] = []
        misses = 0
        for example in order:
            if self.fits([*chosen, example]):
                chosen, misses = [*chosen, example], 0
            else:
                misses += 1
            if len(chosen) == self.count or misses == MAX_MISSES:
                break
        return chosen


Selector = Callable[[SelectionContext], list[Example]]
SELECTORS: Registry[Selector] = Registry("selection")


@SELECTORS.register("varied")
def select_varied(context: SelectionContext) -> list[Example]:
    """Spread over the categories, or over the labels where all examples choose among the same.

    Of 16 seeded examples the one is taken whose words are the least like those that are shown
    already: similar demonstrations lead to similar mistakes (Auto-CoT, 2210.03493, section 4).
    """
    groups = _group_examples(context.pool, context.rng)
    order = list(groups)
    chosen: list[Example] = []
    while len(chosen) < context.count and any(groups.values()):
        # 1. the next group; an empty one gives its place to the largest
        group = groups[order[len(chosen) % len(order)]] or max(groups.values(), key=len)
        # 2. its examples, the least similar first
        words = [word_set(one) for one in chosen]
        offered = sorted(group[:NUM_COMPARED], key=partial(_measure_similarity, words))
        # 3. the first that fits
        found = next((one for one in offered if context.fits([*chosen, one])), None)
        if found is None:
            break
        chosen.append(found)
        group.remove(found)
    return chosen


@SELECTORS.register("random")
def select_random(context: SelectionContext) -> list[Example]:
    """Draws the demonstrations and their order by the seed."""
    return context.take_fitting(context.pool)


@SELECTORS.register("balanced")
def select_balanced(context: SelectionContext) -> list[Example]:
    """Draws equally many of each answer, and their order, by the seed."""
    groups: dict[str, list[Example]] = {}
    for example in context.pool:
        groups.setdefault(example.answer, []).append(example)
    # the first of each answer, then the second of each, ...
    rounds = itertools.zip_longest(*groups.values())
    order = [example for each in rounds for example in each if example is not None]
    chosen = context.take_fitting(order)
    context.rng.shuffle(chosen)  # the last label would else be repeated (2102.09690, section 4)
    return chosen if context.fits(chosen) else context.take_fitting(order)


@SELECTORS.register("diverse")
def select_diverse(context: SelectionContext) -> list[Example]:
    """Typical of the task and unlike each other: maximal marginal relevance.

    The relevance of an example is its mean similarity to all others.
    """
    pool = context.pool[: context.pool_size]
    similarity = context.index(pool)
    relevance = np.mean([similarity.to_member(index) for index in range(len(pool))], axis=0)
    relevance = relevance / max(float(relevance.max(initial=0.0)), 1e-12)
    diversity = DIVERSITY if context.diversity is None else context.diversity
    # more than are shown, in case that some do not fit
    wanted = context.count + MAX_MISSES
    order = rank_by_mmr(similarity, relevance, range(len(pool)), wanted, diversity)
    return context.take_fitting(pool[index] for index in order)


@SELECTORS.register("fixed")
def select_fixed(context: SelectionContext) -> list[Example]:
    """Those that the options name, in their order."""
    return context.take_fitting(context.fixed)


def word_set(example: Example) -> set[str]:
    """The words of the reasoning, or else of the question, in lower case and without numbers."""
    return set(re.findall(r"[^\W\d]+|[^\w\s]", (example.reasoning or example.question).lower()))


def jaccard(one: set[str], other: set[str]) -> float:
    """Shared words over all words, 0 to 1."""
    return len(one & other) / len(one | other) if one | other else 1.0


def _group_examples(pool: Sequence[Example], rng: random.Random) -> dict[str, list[Example]]:
    """The examples by category in alphabetical order, or by label in a seeded order."""
    by_label = len({one.choices for one in pool}) == 1 and bool(pool[0].choices)
    by_label = by_label and len({one.category for one in pool}) == 1
    groups: dict[str, list[Example]] = {}
    for example in pool:
        groups.setdefault(example.answer if by_label else example.category, []).append(example)
    order = sorted(groups)
    if by_label:
        rng.shuffle(order)
    return {name: groups[name] for name in order}


def _measure_similarity(shown: Sequence[set[str]], example: Example) -> float:
    """The highest similarity to the words of an example that is shown already, 0 to 1."""
    words = word_set(example)
    return max((jaccard(words, other) for other in shown), default=0.0)
