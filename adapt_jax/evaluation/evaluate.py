"""Judges an adaptation on labelled questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adapt_jax.errors import UserError
from adapt_jax.evaluation.metrics import METRICS, Answered, Judged
from adapt_jax.evaluation.statistics import wilson_interval
from adapt_jax.tasks.task import Example, Task

OnProgress = Callable[[int, int], None]  # (questions done, questions in all)


class Answers(Protocol):
    """Whatever answers questions: an Adaptation, or a stand-in."""

    def answer(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        slots: int = 128,
        on_progress: OnProgress | None = None,
    ) -> list[Answered]:
        """One Answered per example, in their order."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Judged questions and what METRICS says of them; ``ci95`` is Wilson's interval."""

    judged: tuple[Judged, ...]
    metrics: dict[str, float | dict[str, float] | None]
    ci95: tuple[float, float]

    @property
    def n(self) -> int:
        """How many questions were judged."""
        return len(self.judged)

    @property
    def accuracy(self) -> float:
        """Share of questions answered right."""
        return sum(self.correct) / self.n

    @property
    def correct(self) -> list[bool]:
        """Per question, in the order of the task: was it right?"""
        return [row.correct for row in self.judged]

    def to_dict(self) -> dict[str, Any]:
        """Accuracy, its interval, n, and every metric that applies."""
        measured = {name: value for name, value in self.metrics.items() if value is not None}
        return {"accuracy": self.accuracy, "ci95": list(self.ci95), "n": self.n} | measured


def evaluate(
    adaptation: Answers,
    task: Task,
    examples: Sequence[Example] | None = None,
    *,
    seed: int = 0,
    slots: int = 128,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Answers the examples (the task's test split unless given) and judges every answer.

    A question that does not fit the context, or to which nothing readable was said, is wrong.

    Raises:
        UserError: when there is no example.
    """
    examples = task.test if examples is None else examples
    if not examples:
        raise UserError(f"task {task.name!r}: nothing to evaluate on, the split is empty")
    answered = adaptation.answer(examples, seed=seed, slots=slots, on_progress=on_progress)
    judged = tuple(
        Judged(example, said, task.grade(said.answer, example))
        for example, said in zip(examples, answered, strict=True)
    )
    metrics = {name: metric(task, judged) for name, metric in METRICS.items()}
    return Evaluation(judged, metrics, wilson_interval(sum(j.correct for j in judged), len(judged)))
