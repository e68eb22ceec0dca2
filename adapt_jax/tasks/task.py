"""Task: what a decoder is adapted to. ``loading.load_task`` reads it from a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapt_jax.tasks.answers import answers_match
from adapt_jax.tasks.answers.tolerance import Tolerance
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.question_format import QuestionFormat
from adapt_jax.tasks.summary import DataSummary
from adapt_jax.tasks.templates import Template

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """Examples in three splits, how they are asked, and how an answer is read and graded.

    Demonstrations and training use ``train``, decisions ``development``; ``test`` only judges.

    Attributes:
        templates: further ones, of which instruction tuning draws one for each example.
        parser: name of the answer parser, in ``answers.PARSERS``.
        source: name of the source.
        scorer: name of the scorer, in ``evaluation.scorers.SCORERS``.
        relative_tolerance: how much a number may differ from the gold answer, as a share of it. 0
            is exact (except for the rounding of floats); 1e-3 is what others use.
        absolute_tolerance: how much it may differ in itself; one of the two is enough.
        warnings: what was left out or looks wrong, in words.
        summary: what was read.
        question_format: how questions are read from files; None where no file is read.
    """

    name: str
    train: Sequence[Example]
    development: Sequence[Example]
    test: Sequence[Example]
    instruction: str = ""
    template: Template = field(default_factory=Template)
    templates: tuple[Template, ...] = ()
    parser: str = "number"
    source: str = ""
    seed: int = 0
    scorer: str = "exact"
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0
    warnings: tuple[str, ...] = ()
    summary: DataSummary | None = None
    question_format: QuestionFormat | None = None

    @property
    def has_reasoning(self) -> bool:
        """Whether a training example has a reasoning to show."""
        return any(example.reasoning for example in self.train)

    def grade(self, predicted: str | None, example: Example) -> bool:
        """Whether an answer, canonical or as written, is an accepted one; None is wrong."""
        tolerance = Tolerance(self.relative_tolerance, self.absolute_tolerance)
        return predicted is not None and answers_match(
            self.parser, predicted, example.accepted, example.choices, tolerance
        )
