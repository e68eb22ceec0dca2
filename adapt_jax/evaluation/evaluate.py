"""Judges an adaptation on labelled questions."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.metrics import METRICS, ScoredPrediction
from adapt_jax.evaluation.significance import wilson_interval
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.tasks.task import Example, Task
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.progress import OnProgress, Pace


class Answers(Protocol):
    """Whatever answers questions: an Adaptation, or a stand-in."""

    def stream(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        slots: int | None = None,
        answered: Collection[int] = (),
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """(index, answer) of each example that is not ``answered``, in any order."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Judged questions and what METRICS says of them; ``ci95`` is Wilson's interval."""

    judged: tuple[ScoredPrediction, ...]
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
    slots: int | None = None,
    on_progress: OnProgress | None = None,
    journal: Journal | None = None,
) -> Evaluation:
    """Answers the examples (the task's test split unless given) and judges every answer.

    A question that does not fit the context, or to which nothing readable was said, is wrong.

    Args:
        journal: where answers are written as they come. Those that it holds from an interrupted
            run are not asked again, and the result is the same but for its times.

    Raises:
        UserError: when there is no example.
    """
    examples = task.test if examples is None else examples
    if not examples:
        raise UserError(f"task {task.name!r}: nothing to evaluate on, the split is empty")
    if journal is None:
        answered = answer_all(adaptation, examples, {}, seed, slots, on_progress)
    else:
        known = journal.read(examples)
        with journal.write(known):
            answered = answer_all(adaptation, examples, known, seed, slots, on_progress, journal)
    judged = tuple(
        ScoredPrediction(example, said, task.grade(said.answer, example))
        for example, said in zip(examples, answered, strict=True)
    )
    metrics = {name: metric(task, judged) for name, metric in METRICS.items()}
    return Evaluation(judged, metrics, wilson_interval(sum(j.correct for j in judged), len(judged)))


def answer_all(
    adaptation: Answers,
    examples: Sequence[Example],
    known: Mapping[int, Prediction],
    seed: int,
    slots: int | None,
    on_progress: OnProgress | None,
    journal: Journal | None = None,
) -> list[Prediction]:
    """One answer per example in their order: those that are known, and what the others get."""
    said, pace = dict(known), Pace(on_progress, len(known), len(examples))
    stream = adaptation.stream(
        examples, seed=seed, slots=slots, answered=known.keys(), on_tokens=pace.tokens
    )
    for index, one in stream:
        said[index] = one
        if journal is not None:
            journal.add(one)
        pace.answered()
    return [said[index] for index in range(len(examples))]
