"""Options of the demonstrations: how many, which, and how they are chosen."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from adapt_jax.prompting.demonstration_selectors import SELECTORS
from adapt_jax.prompting.similarity import SIMILARITIES
from adapt_jax.tasks.fields.example_reader import Text
from adapt_jax.utils.config import Strict
from adapt_jax.utils.errors import nearest

__all__ = ["NEAREST", "DemonstrationOptions", "InlineDemonstration"]

NEAREST = "nearest"  # the one way of choosing that depends on the question


class InlineDemonstration(Strict):
    """A demonstration that is written in the configuration."""

    question: Text
    answer: Text
    reasoning: Text = ""
    choices: list[Text] = []


class DemonstrationOptions(Strict):
    """Which solved questions are shown. ``8`` is short for ``{count: 8}``.

    Attributes:
        count: the most that are shown; fewer where the context holds no more.
        select: ``varied``, spread over labels or categories and unlike each other; ``random``;
            ``balanced``, as many of each answer; ``diverse``, typical of the task and unlike each
            other (MMR); ``fixed``, those of ``ids`` and ``examples``; ``nearest``, chosen for each
            question, the ones most similar to it; or a selector that was registered elsewhere.
        ids: of training examples, in the order in which they are shown.
        examples: written here, shown after those of ``ids``.
        max_tokens: of all demonstrations together; a demonstration that does not fit is left out
            whole.
        similarity: for ``nearest`` and ``diverse``: ``bm25`` (words in common) or ``decoder`` (the
            decoder's mean hidden states).
        diversity: 0 to 1: how much ``nearest`` (by default 0) and ``diverse`` (0.5) avoid what is
            similar to a demonstration that is shown already.
        pool: the most training examples that ``nearest`` and ``diverse`` choose among.
    """

    count: int = Field(8, gt=0, le=10_000, strict=True)
    select: str = "varied"
    ids: list[Text] = []
    examples: list[InlineDemonstration] = []
    max_tokens: PositiveInt | None = None
    similarity: str = "bm25"
    diversity: float | None = Field(None, ge=0, le=1)
    pool: int = Field(2000, gt=0, le=1_000_000)

    @model_validator(mode="before")
    @classmethod
    def _read_count(cls, value: Any) -> Any:
        """A number alone is the count; ids and examples alone are ``select: fixed``."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"count": value}
        if isinstance(value, Mapping) and (value.get("ids") or value.get("examples")):
            return {"select": "fixed", **value}
        return value

    @field_validator("select")
    @classmethod
    def _check_select(cls, name: str) -> str:
        known = [*SELECTORS, NEAREST]
        if name not in known:
            raise ValueError(
                f"unknown selection {name!r:.80}{nearest(name, known)}; known: {', '.join(known)}"
            )
        return name

    @field_validator("similarity")
    @classmethod
    def _check_similarity(cls, name: str) -> str:
        if name not in SIMILARITIES:
            raise ValueError(SIMILARITIES.describe_unknown(name[:80]))
        return name

    @model_validator(mode="after")
    def _check_fixed(self) -> "DemonstrationOptions":
        has_own = bool(self.ids or self.examples)
        if has_own != (self.select == "fixed"):
            found = "there are none" if not has_own else f"select is {self.select}"
            raise ValueError(f"ids and examples belong to `select: fixed`, and {found}")
        if self.diversity is not None and self.select not in (NEAREST, "diverse"):
            raise ValueError("diversity needs `select: nearest` or `select: diverse`")
        return self
