"""Named mixtures of instructions: the embedded one, and files in Alpaca's form."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import find_path
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["DEFAULT_HELD_OUT", "MIXTURES", "MixtureOptions", "load_mixture"]

DEFAULT_HELD_OUT = {"arithmetic": ("owner", "reverse", "smaller", "sequence", "digits")}


@dataclass(frozen=True)
class MixtureOptions:
    """See InstructionTuning, whose options they are."""

    examples_per_category: int
    eval_size: int
    seed: int


def load_mixture(mixture: str, options: MixtureOptions) -> Task:
    """A mixture as a task: examples of all categories to train on, and to evaluate (``test``).

    Those of a file are the same: each of its categories is either trained on or evaluated.

    Args:
        mixture: a name in MIXTURES, or a .jsonl or .json file.

    Raises:
        UserError: an unknown mixture.
    """
    if mixture in MIXTURES:
        return MIXTURES[mixture](options)
    if not mixture.endswith((".jsonl", ".json")):
        raise UserError(
            f"instruction_tuning.mixture: {mixture!r} is neither a .jsonl or .json file nor "
            f"one of {', '.join(MIXTURES)}{nearest(mixture, MIXTURES)}"
        )
    return _read_mixture(find_path(mixture, Path()), options)


def _arithmetic(options: MixtureOptions) -> Task:
    """Generated instructions about small numbers and short texts."""
    from adapt_jax.tasks.arithmetic import KINDS, draw_instructions

    train = draw_instructions(options.seed, list(KINDS), options.examples_per_category)
    test = draw_instructions(options.seed, list(KINDS), options.eval_size, split="test")
    return Task("arithmetic mixture", train, (), test, parser="text")


def _read_mixture(path: Path, options: MixtureOptions) -> Task:
    """A file in Alpaca's form."""
    rows = read_rows(path)
    categories: dict[str, list[Example]] = {}
    for row in rows:
        example = _read_alpaca_row(row)
        categories.setdefault(example.category, []).append(example)
    rng = random.Random(options.seed)
    for examples in categories.values():
        rng.shuffle(examples)

    def take(count: int) -> list[Example]:
        return [one for examples in categories.values() for one in examples[:count]]

    train, test = take(options.examples_per_category), take(options.eval_size)
    return Task(path.stem, train, (), test, parser="text")


def _read_alpaca_row(row: Row) -> Example:
    """{"instruction", "input" (may be absent or empty), "output"}, and optionally "category"."""
    fields = ("instruction", "input", "output", "category")
    values = {key: row.values.get(key, "") for key in fields}
    for key, value in values.items():
        if not isinstance(value, str) or (key in ("instruction", "output") and not value):
            has = ", ".join(row.values)
            raise UserError(f"{row.where}: expected a text in field {key!r}; it has: {has}")
    question = "\n".join(part for part in (values["instruction"], values["input"]) if part)
    return Example(
        str(row.number), question, values["output"], category=values["category"] or "file"
    )


MIXTURES: dict[str, Callable[[MixtureOptions], Task]] = {"arithmetic": _arithmetic}
