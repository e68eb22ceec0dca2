"""The registry of sources, and the request that a source answers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.registry import Registry

__all__ = ["SOURCES", "SPLITS", "Rows", "Sizes", "SourceRequest"]

SPLITS = ("train", "development", "test")

Rows = Mapping[str, Iterable[Row | Example]]  # by split; undivided rows are "all"
Sizes = Mapping[str, int | float | None]


@dataclass(frozen=True)
class SourceRequest:
    """The request that a source answers.

    Attributes:
        options: the keys of ``source`` in the task file except for its name.
        folder: where relative paths are looked for first.
        seed: of the task.
        sizes: how many examples of each split the task wants; None where it does not say.
        id_field: the field that holds ids.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path(".")
    seed: int = 0
    sizes: Sizes = field(default_factory=lambda: dict.fromkeys(SPLITS))
    id_field: str = "id"


SOURCES: Registry[Callable[[SourceRequest], Rows]] = Registry("source")
