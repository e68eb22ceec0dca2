"""Mixtures of instructions: what instruction tuning trains on, and what it leaves out.

A mixture has categories. Some are trained on, the others are held out to be evaluated.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.readers import Row, read_rows
from adapt_jax.utils.config import find_path
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["MIXTURES", "MixtureOptions", "build_mixture"]


@dataclass(frozen=True)
class MixtureOptions:
    """See InstructionTuning, whose options they are."""

    held_out: Sequence[str] | None
    examples_per_category: int
    eval_size: int
    seed: int


Examples = tuple[list[Example], list[Example]]  # to train on, and held out


def build_mixture(mixture: str, options: MixtureOptions) -> Examples:
    """The examples to train on, and those of held-out categories.

    Args:
        mixture: a name in MIXTURES, or a .jsonl or .json file.

    Raises:
        UserError: an unknown mixture or category, or every category is held out.
    """
    if mixture in MIXTURES:
        return MIXTURES[mixture](options)
    if not mixture.endswith((".jsonl", ".json")):
        raise UserError(
            f"instruction_tuning.mixture: {mixture!r} is neither a .jsonl or .json file nor "
            f"one of {', '.join(MIXTURES)}{nearest(mixture, MIXTURES)}"
        )
    return _read_mixture(find_path(mixture, Path()), options)


def _split_categories(
    categories: Sequence[str], held_out: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The categories to train on and the held-out ones."""
    for name in held_out:
        if name not in categories:
            raise UserError(
                f"instruction_tuning.held_out: no category {name!r}; there are: "
                f"{', '.join(categories)}{nearest(name, categories)}"
            )
    trained = [name for name in categories if name not in held_out]
    if not trained:
        raise UserError("instruction_tuning.held_out: every category is held out")
    return trained, list(held_out)


def _arithmetic(options: MixtureOptions) -> Examples:
    """Generated instructions about small numbers and short texts."""
    from adapt_jax.tasks.arithmetic import KINDS, draw_instructions

    default = ["owner", "reverse", "smaller", "sequence", "digits"]
    held_out = default if options.held_out is None else options.held_out
    trained, held_out = _split_categories(list(KINDS), held_out)
    return (
        draw_instructions(options.seed, trained, options.examples_per_category),
        draw_instructions(options.seed, held_out, options.eval_size, split="test"),
    )


def _read_mixture(path: Path, options: MixtureOptions) -> Examples:
    """A file in Alpaca's form; by default nothing of it is held out."""
    rows = read_rows(path)
    categories: dict[str, list[Example]] = {}
    for row in rows:
        example = _read_alpaca_row(row)
        categories.setdefault(example.category, []).append(example)
    trained, held_out = _split_categories(list(categories), options.held_out or [])
    rng = random.Random(options.seed)
    for examples in categories.values():
        rng.shuffle(examples)
    return (
        [e for name in trained for e in categories[name][: options.examples_per_category]],
        [e for name in held_out for e in categories[name][: options.eval_size]],
    )


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


MIXTURES: dict[str, Callable[[MixtureOptions], Examples]] = {"arithmetic": _arithmetic}
