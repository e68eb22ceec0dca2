"""Example: one question of a task, with what is known about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Example"]


@dataclass(frozen=True)
class Example:
    """A question with its gold answers.

    Attributes:
        id: unique within a task; draws and predictions belong to it.
        answer: the gold answer as its source writes it, which is what demonstrations show.
        reasoning: the steps that lead to the answer, where the source has them.
        choices: the options of a multiple-choice question.
        category: what groups accuracies in reports, such as a topic or the number of steps.
        aliases: further answers that count as right.
        fields: those of its row that the templates name, as JSON data; None where they name none.
    """

    id: str
    question: str
    answer: str = ""
    reasoning: str = ""
    choices: tuple[str, ...] = ()
    category: str = ""
    aliases: tuple[str, ...] = ()
    fields: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def accepted(self) -> tuple[str, ...]:
        """All answers that count as right, the shown one first."""
        return (self.answer, *self.aliases)
