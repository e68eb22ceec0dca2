"""Judges an adaptation on labelled questions."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.metrics import METRICS, Answered, Judged
from adapt_jax.evaluation.significance import wilson_interval
from adapt_jax.tasks.task import Example, Task
from adapt_jax.utils.errors import UserError

OnProgress = Callable[..., None]  # (questions done, questions in all, note)


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
    ) -> Iterator[tuple[int, Answered]]:
        """(index, answer) of each example that is not ``answered``, in any order."""
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
        Judged(example, said, task.grade(said.answer, example))
        for example, said in zip(examples, answered, strict=True)
    )
    metrics = {name: metric(task, judged) for name, metric in METRICS.items()}
    return Evaluation(judged, metrics, wilson_interval(sum(j.correct for j in judged), len(judged)))


class Pace:
    """Tells how many questions are answered, and how many tokens a second are written."""

    def __init__(self, on_progress: OnProgress | None, done: int, total: int):
        self.on_progress, self.done, self.total = on_progress, done, total
        self.began, self.written = time.monotonic(), 0
        self.tell()

    def tokens(self, candidates: int, tokens: int) -> None:
        """So many have been written since the beginning."""
        self.written = tokens
        self.tell()

    def answered(self) -> None:
        """One more question is."""
        self.done += 1
        self.tell()

    def tell(self) -> None:
        if self.on_progress is not None:
            rate = self.written / max(time.monotonic() - self.began, 1e-9)
            note = f"{rate:,.0f} tokens/s" if self.written else ""
            self.on_progress(self.done, self.total, note)


def answer_all(
    adaptation: Answers,
    examples: Sequence[Example],
    known: Mapping[int, Answered],
    seed: int,
    slots: int | None,
    on_progress: OnProgress | None,
    journal: Journal | None = None,
) -> list[Answered]:
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
