"""Typed results of a search: the content of ``search.json``."""

from collections.abc import Sequence
from typing import Literal

from adapt_jax.evaluation.significance import wilson_interval
from adapt_jax.utils.config import Strict

__all__ = ["FORMAT", "Measured", "Origin", "SearchResult", "TriedPrompt"]

FORMAT: Literal[1] = 1  # raised when a field changes its name or its meaning
Origin = Literal["own", "drawn", "reordered"]


class Measured(Strict):
    """How many of n questions were answered right.

    Attributes:
        accuracy, ci95: the share, with Wilson's 95 % interval.
        score: mean of the scorer's values.
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int
    score: float

    @classmethod
    def of(cls, correct: Sequence[bool], scores: Sequence[float]) -> "Measured":
        """Of the verdict and the score of each question, at least one."""
        n = len(correct)
        interval = wilson_interval(sum(correct), n)
        return cls(accuracy=sum(correct) / n, ci95=interval, n=n, score=sum(scores) / n)


class TriedPrompt(Strict):
    """A prompt of the search.

    Attributes:
        origin: ``own``, as the method chooses by itself; ``drawn`` at random; or ``reordered``.
        demonstrations: the questions that are shown, in their order; empty where they are chosen
            for each question.
        development: on the questions that it was asked; None where it was asked none.
        left_because: when and why it left the race; None of the prompt that won.
    """

    origin: Origin
    instruction: str
    demonstrations: list[str]
    development: Measured | None = None
    left_because: str | None = None


class SearchResult(Strict):
    """The content of search.json.

    Attributes:
        asked: development questions that were asked, over all prompts.
        chosen: the number of the prompt that won, in ``tried``.
        development: of the prompt that won, on the questions that it was asked. They chose it, so
            this is more than it will reach elsewhere.
        test: its answers to the test split; None where the task has none.
    """

    format: Literal[1] = FORMAT
    identity: str
    task: str
    decoder: str
    method: str
    seed: int
    max_questions: int
    asked: int
    chosen: int
    development: Measured
    test: Measured | None = None
    tried: list[TriedPrompt]
