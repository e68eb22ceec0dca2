"""The three splits of a task: sizes, a division by the seed, and no question in two of them."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import field_validator

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources import SPLITS, Sizes
from adapt_jax.tasks.summary import fold_question
from adapt_jax.utils.config import Strict
from adapt_jax.utils.errors import UserError

__all__ = ["Splits", "check_ids", "divide", "drop_leaks"]


class Splits(Strict):
    """How many examples of each split: a number, or a fraction of the file. Left out: all of the
    split's own file; of one file, no development examples, and for training what is left."""

    train: int | float | None = None
    development: int | float | None = None
    test: int | float | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_size(cls, size: Any) -> Any:
        number = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        fraction = isinstance(size, float) and 0 < size <= 1
        if not (size is None or number or fraction):
            raise ValueError("expected a number of examples, or a fraction such as 0.2")
        return size


def divide(
    examples: Mapping[str, list[Example]], sizes: Sizes, seed: int, stratified: bool, where: str
) -> dict[str, list[Example]]:
    """The three splits. Those without a file of their own are cut from the training file or the
    only one, the test split first, so that its questions depend on the seed and its size alone.

    Args:
        stratified: whether every part holds the answers in their proportions.

    Raises:
        UserError: a split is larger than what is left, or the size of the test split is missing.
    """
    origin = "all" if "all" in examples else "train"
    rest = list(examples.get(origin, ()))
    if any(sizes[split] is not None for split in SPLITS):
        rest = _shuffle(rest, seed, stratified)
    total = len(rest)
    if origin == "all" and sizes["test"] is None:
        raise UserError(
            f"{where}: splits.test: expected how many of the {total} examples are for the test "
            "(a number, or a fraction such as 0.2)"
        )
    divided: dict[str, list[Example]] = {}
    for split in reversed(SPLITS):
        size = sizes[split]
        if split in examples and split != origin:
            pool = list(examples[split])
            count = _count(size, len(pool), len(pool), f"{where}: splits.{split}")
            if count < len(pool):
                pool = _shuffle(pool, seed, stratified)
            divided[split] = pool[:count]
        else:
            size = size if size is not None or split == "train" else 0
            count = _count(size, total, len(rest), f"{where}: splits.{split}")
            divided[split], rest = rest[:count], rest[count:]
    return divided


def _count(size: int | float | None, total: int, left: int, where: str) -> int:
    count = left if size is None else round(size * total) if isinstance(size, float) else size
    if count > left:
        raise UserError(f"{where}: asks for {count} examples, there are {left}")
    return int(count)


def _shuffle(examples: Sequence[Example], seed: int, stratified: bool) -> list[Example]:
    """The examples in an order that the seed draws.

    Stratified, every beginning of the order holds the answers in their proportions, and rare
    answers come early enough that one and a half times as many examples as there are answers
    hold them all.
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    if not stratified:
        return shuffled
    counts = Counter(example.answer for example in shuffled)
    latest = 0.5 * len(counts) / len(shuffled) if shuffled else 0.0
    ranks: Counter[str] = Counter()
    keys = []
    for example in shuffled:
        rank = ranks[example.answer]
        ranks[example.answer] += 1
        place = (rank + 0.5) / counts[example.answer]
        keys.append(place if rank else min(place, latest))
    order = sorted(range(len(shuffled)), key=lambda index: keys[index])
    return [shuffled[index] for index in order]


def check_ids(divided: Mapping[str, list[Example]], where: str) -> None:
    """Raises UserError where two examples have one id: draws and predictions belong to ids."""
    counts = Counter(example.id for split in divided.values() for example in split)
    for id, count in counts.most_common(1):
        if count > 1:
            raise UserError(f"{where}: fields.id: the id {id!r:.80} occurs {count} times")


def drop_leaks(divided: dict[str, list[Example]]) -> tuple[str, ...]:
    """Drops, in place, the questions that a later split holds too (white space and case folded).

    Returns:
        a warning for each split that lost some.
    """
    warnings = []
    later: set[str] = set()
    for split in reversed(SPLITS):
        folded = [fold_question(example) for example in divided[split]]
        kept = [e for e, key in zip(divided[split], folded, strict=True) if key not in later]
        if dropped := len(folded) - len(kept):
            warnings.append(f"{dropped} {split} questions dropped: they stand in a later split too")
        divided[split] = kept
        later.update(folded)
    return tuple(warnings)
