"""Texts that begin alike are read once: which of them share a prefix, and which of them a row.

Few-shot prompts of a task begin with the same demonstrations, and the choices of a question with
the same question. Given contexts and their continuations as token ids, in any order:

1. contexts that begin alike form a **group**, whose common beginning is encoded once, as a prefix;
2. within a group, texts with a longer beginning in common form a **row**: the common part is its
   context, and each text is one continuation of it (``likelihood.MultipleChoiceRequest``).

Both are chosen on the tree of common beginnings, bottom up, by the number of tokens to be read.
This is exact: every token is predicted from its own text alone, at its own positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
from jax.sharding import Mesh

from adapt_jax.decoders.prefix import Prefix, round_up
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.likelihood import (
    Batch,
    LogLikelihood,
    MultipleChoiceRequest,
    count_rows,
    encode_scoring_prefix,
    score_continuations,
)
from adapt_jax.sampling.shapes import round_up_to_power

__all__ = ["Group", "Pair", "group_contexts", "plan_small_batches", "score_pairs"]

GROUP_COST = 128  # tokens: encoding one more prefix costs as much as reading these in a batch
ROW_COST = 8  # tokens: what a row costs beside its own
# A token that attends to this many others costs twice as much as one that attends to none.
ATTENTION_TOKENS = 2048
MAX_ROW_LENGTH = 2048  # tokens of a row that several texts share, or the longest and a quarter
MIN_LENGTH = 16  # tokens that rows are padded to, at least

R = TypeVar("R")


class Pair(NamedTuple):
    """Token ids of a context, and of what may follow it. Neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Group(NamedTuple):
    """Contexts that share a prefix.

    Attributes:
        length: tokens of the prefix, fewer than any of the contexts has.
        members: indices of the contexts.
    """

    length: int
    members: list[int]


def score_pairs(
    model: PretrainedDecoder,
    pairs: Sequence[Pair],
    build_prefix: Callable[[tuple[int, ...]], Prefix],
    *,
    min_prefix: int = 0,
    mesh: Mesh | None = None,
) -> Iterator[tuple[int, LogLikelihood]]:
    """Yields (index, likelihood of the continuation) for every pair, in any order.

    Args:
        pairs: each fits into the decoder's context, together with what ``build_prefix`` adds.
        build_prefix: the prefix with these tokens, to which it may add, such as a soft prompt.
        min_prefix: tokens of each context that are part of the prefix in any case.
    """
    # equal pairs are scored once
    indices: dict[Pair, list[int]] = {}
    for index, pair in enumerate(pairs):
        indices.setdefault(pair, []).append(index)
    unique = list(indices)
    contexts = list(dict.fromkeys(pair.context for pair in unique))
    number_of = {context: number for number, context in enumerate(contexts)}
    of_context: list[list[Pair]] = [[] for _ in contexts]
    for pair in unique:
        of_context[number_of[pair.context]].append(pair)

    for length, members in group_contexts(contexts, min_prefix=min_prefix):
        same_prefix = [pair for member in members for pair in of_context[member]]
        prefix = build_prefix(contexts[members[0]][:length])
        rows = list(_share_rows(same_prefix, length))
        for row, found in score_continuations(
            model,
            prefix,
            [request for request, _ in rows],
            mesh=mesh,
            encoded_prefix=encode_scoring_prefix(model, prefix),
            plan_batches=plan_small_batches,
        ):
            for member, likelihood in zip(rows[row][1], found, strict=True):
                for index in indices[same_prefix[member]]:
                    yield index, likelihood


def group_contexts(
    contexts: Sequence[tuple[int, ...]],
    *,
    min_prefix: int = 0,
    group_cost: int = GROUP_COST,
) -> list[Group]:
    """Which contexts share a prefix, and how long it is, so that the fewest tokens are read.

    Args:
        contexts: all different, of more than ``min_prefix`` tokens each.
        min_prefix: tokens that all contexts have in common, and that every prefix has.
        group_cost: of one more prefix, in tokens that are read in the place of it.
    """
    order, common = _sort(contexts)
    lengths = [len(contexts[index]) for index in order]

    def begin(at: int) -> _Choice:
        return _Choice(float(lengths[at]), lengths[at], rest=[at])

    def merge(depth: int, parts: list[_Choice]) -> _Choice:
        # 1. each part for itself
        apart = _Choice(
            sum(part.cost for part in parts),
            min(part.shortest for part in parts),
            [group for part in parts for group in part.groups],
            [at for part in parts for at in part.rest],
        )
        # 2. all of them behind one prefix; a token remains for the rows, after which they go on
        length = min(depth, apart.shortest - 1)
        members = [*apart.rest, *(at for group in apart.groups for at in group.members)]
        cost = group_cost + length + sum(lengths[at] - length for at in members)
        if length <= min_prefix or cost >= apart.cost:
            return apart
        return _Choice(cost, apart.shortest, [Group(length, members)])

    if not contexts:
        return []
    chosen = _climb(common, begin, merge)
    groups = [*chosen.groups, *([Group(min_prefix, chosen.rest)] if chosen.rest else [])]
    return [Group(length, [order[at] for at in members]) for length, members in groups]


@dataclass
class _Choice:
    """How the texts of a subtree are read.

    Attributes:
        cost: in tokens.
        shortest: tokens of the shortest text.
        groups, rest: those that share a prefix, and the others.
    """

    cost: float
    shortest: int
    groups: list[Group] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)


def _share_rows(
    pairs: Sequence[Pair], length: int
) -> Iterator[tuple[MultipleChoiceRequest, list[int]]]:
    """The rows of pairs whose first ``length`` tokens are a prefix, with the pairs in each row."""
    texts = [pair.context + pair.continuation for pair in pairs]
    borders = [len(pair.context) for pair in pairs]
    order, common = _sort(texts)

    def count_cost(tokens: int) -> float:
        return tokens + tokens**2 / ATTENTION_TOKENS + ROW_COST

    def begin(at: int) -> tuple[float, list[tuple[int, list[int]]]]:
        border = borders[order[at]]
        return count_cost(len(texts[order[at]]) - length), [(border, [at])]

    def merge(
        depth: int, parts: list[tuple[float, list[tuple[int, list[int]]]]]
    ) -> tuple[float, list[tuple[int, list[int]]]]:
        apart = sum(cost for cost, _ in parts)
        rows = [row for _, part in parts for row in part]
        members = [at for _, row in rows for at in row]
        # a row's context ends before anything that is scored, and has a token
        border = min(depth, *(borders[order[at]] for at in members))
        sizes = [len(texts[order[at]]) - border for at in members]
        tokens = border - length + sum(sizes)
        longest = border - length + max(sizes)
        cost = count_cost(tokens)
        is_long = tokens > max(MAX_ROW_LENGTH, longest * 5 // 4)
        if border <= length or is_long or cost >= apart:
            return apart, rows
        return cost, [(border, members)]

    for border, row in _climb(common, begin, merge)[1]:
        members = [order[at] for at in row]
        continuations = tuple(texts[member][border:] for member in members)
        unscored = tuple(borders[member] - border for member in members)
        context = texts[members[0]][length:border]
        yield MultipleChoiceRequest(context, continuations, unscored), members


def _sort(texts: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """The texts' indices in the order of their tokens, and what neighbours have in common."""
    arrays = [np.asarray(text, ">u4") for text in texts]  # its bytes have the order of the numbers
    order = sorted(range(len(texts)), key=lambda index: arrays[index].tobytes())
    common = []
    for one, other in zip(order, order[1:], strict=False):
        size = min(len(arrays[one]), len(arrays[other]))
        differs = np.flatnonzero(arrays[one][:size] != arrays[other][:size])
        common.append(int(differs[0]) if differs.size else size)
    return order, common


def _climb(
    common: Sequence[int], begin: Callable[[int], R], merge: Callable[[int, list[R]], R]
) -> R:
    """The value of the root of the tree of common beginnings.

    Args:
        common: tokens that each text and the next one begin with in common; texts are sorted.
        begin: the value of a text alone.
        merge: the value of texts that have so many tokens in common, from those of their subtrees.
    """
    # open subtrees, from the root down: tokens in common, and the values of their parts
    stack: list[tuple[int, list[R]]] = []
    newest = begin(0)
    for at, depth in enumerate(common, 1):
        while stack and stack[-1][0] > depth:
            closed, parts = stack.pop()
            newest = merge(closed, [*parts, newest])
        if stack and stack[-1][0] == depth:
            stack[-1][1].append(newest)
        else:
            stack.append((depth, [newest]))
        newest = begin(at)
    while stack:
        closed, parts = stack.pop()
        newest = merge(closed, [*parts, newest])
    return newest


def plan_small_batches(rows: Sequence[MultipleChoiceRequest], row_multiple: int) -> Iterator[Batch]:
    """Batches of equal padded lengths, of which there are few, so that little is compiled.

    A batch that is not full has a power of two of rows.
    """

    def padded(number: int) -> int:
        return _pad_length(rows[number].length)

    def size(number: int) -> tuple[int, int, int]:
        return padded(number), rows[number].num_targets, rows[number].length

    for length, group in groupby(sorted(range(len(rows)), key=size), padded):
        same, full = list(group), count_rows(length, row_multiple)
        for start in range(0, len(same), full):
            batch = same[start : start + full]
            count = round_up(round_up_to_power(len(batch)), row_multiple)
            yield Batch(batch, min(full, count), length)


def _pad_length(length: int) -> int:
    """The length rounded up to one of four sizes per doubling."""
    return max(MIN_LENGTH, round_up(length, max(MIN_LENGTH, round_up_to_power(length) >> 3)))
