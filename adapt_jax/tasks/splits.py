"""The three splits of a task: sizes, a division by content, and no question in two of them.

A file is divided by a hash of each example's content and the seed. So which split a question is
in does not depend on the order of the rows, and rows that are added move few others.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NoReturn

from pydantic import field_validator

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources import SPLITS, Sizes
from adapt_jax.tasks.summary import fold_question
from adapt_jax.utils.config import Strict
from adapt_jax.utils.errors import UserError

__all__ = ["AllowOverlap", "Splits", "check_ids", "content_key", "divide", "resolve_overlaps"]

AllowOverlap = bool | Literal["drop"]


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


def content_key(example: Example, seed: int) -> int:
    """The place of an example in a seeded order, 0 to 2**64, from its question and choices."""
    content = f"{seed}\n{fold_question(example)}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def divide(
    examples: Mapping[str, list[Example]], sizes: Sizes, seed: int, stratified: bool, where: str
) -> dict[str, list[Example]]:
    """The three splits. Those without a file of their own are cut from the training file or the
    only one, the test split first, so that its questions depend on the seed and its size alone.

    What is cut is put into the order of ``content_key`` first. A training file that is taken whole
    is shuffled by the seed.

    Args:
        stratified: whether every part holds the answers in their proportions.

    Raises:
        UserError: a split is larger than what is left, or the size of the test split is missing.
    """
    origin = "all" if "all" in examples else "train"
    rest = list(examples.get(origin, ()))
    total = len(rest)
    if origin == "all" and sizes["test"] is None:
        raise UserError(
            f"{where}: splits.test: expected how many of the {total} examples are for the test "
            "(a number, or a fraction such as 0.2)"
        )
    taken = [split for split in SPLITS if split == "train" or split not in examples]
    counts = [_to_number(size, total) for one in taken if (size := sizes[one]) is not None]
    if any(count not in (0, total) for count in counts):
        rest = _order(rest, seed, stratified)
    elif any(sizes[split] is not None for split in SPLITS):
        random.Random(seed).shuffle(rest)
    divided: dict[str, list[Example]] = {}
    for split in reversed(SPLITS):
        size = sizes[split]
        if split in examples and split != origin:
            pool = list(examples[split])
            count = _count(size, len(pool), len(pool), f"{where}: splits.{split}")
            if count < len(pool):
                pool = _order(pool, seed, stratified)
            divided[split] = pool[:count]
        else:
            size = size if size is not None or split == "train" else 0
            count = _count(size, total, len(rest), f"{where}: splits.{split}")
            divided[split], rest = rest[:count], rest[count:]
    return divided


def _count(size: int | float | None, total: int, left: int, where: str) -> int:
    count = left if size is None else _to_number(size, total)
    if count > left:
        raise UserError(f"{where}: asks for {count} examples, there are {left}")
    return count


def _to_number(size: int | float, total: int) -> int:
    """A size as a number of examples; a fraction is one of all."""
    return round(size * total) if isinstance(size, float) else size


def _order(examples: Sequence[Example], seed: int, stratified: bool) -> list[Example]:
    """The examples in the order of their content and the seed.

    Stratified, every beginning of the order holds the answers in their proportions, and rare
    answers come early enough that one and a half times as many examples as there are answers
    hold them all.
    """
    ordered = sorted(examples, key=lambda example: (content_key(example, seed), example.answer))
    if not stratified:
        return ordered
    counts = Counter(example.answer for example in ordered)
    latest = 0.5 * len(counts) / len(ordered) if ordered else 0.0
    ranks: Counter[str] = Counter()
    keys = []
    for example in ordered:
        rank = ranks[example.answer]
        ranks[example.answer] += 1
        place = (rank + 0.5) / counts[example.answer]
        keys.append(place if rank else min(place, latest))
    order = sorted(range(len(ordered)), key=lambda index: keys[index])
    return [ordered[index] for index in order]


def check_ids(examples: Mapping[str, list[Example]], places: Mapping[int, str], where: str) -> None:
    """Checks that no two examples have one id: draws and predictions belong to ids.

    Args:
        examples: by split.
        places: file and line of an example, by its ``id(...)`` in Python.

    Raises:
        UserError: naming both lines.
    """
    seen: dict[str, Example] = {}
    for split in examples.values():
        for example in split:
            other = seen.setdefault(example.id, example)
            if other is not example:
                here, there = (places.get(id(one), where) for one in (example, other))
                raise UserError(f"{here}: fields.id: the id {example.id!r:.80} is that of {there}")


def resolve_overlaps(
    divided: dict[str, list[Example]],
    given: Collection[str],
    allow: AllowOverlap,
    places: Mapping[int, str],
    where: str,
) -> tuple[str, ...]:
    """Questions that are in two splits (white space and case folded): refuses, drops or reports.

    A test question among inline examples, or in a training or development split that the user
    gives, is refused: the result would not be one of unseen questions. Where one file is divided,
    and between training and development, the question is dropped from the earlier split.

    Args:
        divided: changed in place.
        given: splits that have rows of their own.
        allow: True keeps test questions in both splits, "drop" drops them from the earlier one.

    Returns:
        a warning for each split that has or had such questions.

    Raises:
        UserError: naming the lines; or every test question is in the training split.
    """
    warnings = []
    later = {fold_question(example): example for example in divided["test"]}
    tested = dict(later)
    for split in ("development", "train"):
        folded = [fold_question(example) for example in divided[split]]
        in_test = [e for e, key in zip(divided[split], folded, strict=True) if key in tested]
        is_given = {split, "test"} <= set(given)
        named = [example for example in in_test if is_given or id(example) not in places]
        if named and not allow:
            _refuse_overlap(named, split, tested, places, where)
        kept_keys = tested.keys() if allow is True else set[str]()
        if allow is True and in_test:
            if split == "train" and tested.keys() <= set(folded):
                raise UserError(f"{where}: every test question is in the training split, too")
            warnings.append(f"{len(in_test)} {split} questions are in the test split (allowed)")
        own = [
            example
            for example, key in zip(divided[split], folded, strict=True)
            if key not in later or key in kept_keys
        ]
        if dropped := len(folded) - len(own):
            warnings.append(f"{dropped} {split} questions dropped: they stand in a later split too")
        divided[split] = own
        later |= {fold_question(example): example for example in own}
    return tuple(warnings)


def _refuse_overlap(
    shared: Sequence[Example],
    split: str,
    tested: Mapping[str, Example],
    places: Mapping[int, str],
    where: str,
) -> NoReturn:
    first = shared[0]
    place = places.get(id(first), f"{where}: inline_examples")
    other = places.get(id(tested[fold_question(first)]), "the test split")
    all_of = ": all of it" if len({fold_question(one) for one in shared}) == len(tested) else ""
    raise UserError(
        f"{place}: {len(shared)} {split} {'question is' if len(shared) == 1 else 'questions are'} "
        f"in the test split, too{all_of}; the first is that of {other}. `allow_overlap: drop` "
        f"leaves them out of {split}, `allow_overlap: true` keeps them"
    )
