"""Evaluates an adaptation on labelled questions."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adapt_jax.evaluation import more_metrics as more_metrics  # registers them
from adapt_jax.evaluation.journal import Journal, read_plain_prediction, to_plain_prediction
from adapt_jax.evaluation.metrics import BUILT_IN_METRICS, METRICS, ScoredPrediction
from adapt_jax.evaluation.results import EvaluationResult
from adapt_jax.evaluation.scorers import find_scorer, score_answer
from adapt_jax.evaluation.significance import score_interval, wilson_interval
from adapt_jax.evaluation.warnings import describe_problems
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.distributed import (
    gather,
    num_processes,
    process_index,
    share_questions,
    take_share,
)
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.progress import OnProgress, Pace

__all__ = ["Answers", "Evaluation", "evaluate"]


class Answers(Protocol):
    """Whatever answers questions: an Adaptation, or a stand-in."""

    def stream(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        max_concurrent_sequences: int | None = None,
        answered: Collection[int] = (),
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """(index, prediction) of each example that is not ``answered``, in any order."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Scored predictions in the order of the questions, and what METRICS measures on them."""

    predictions: tuple[ScoredPrediction, ...]
    result: EvaluationResult

    @property
    def n(self) -> int:
        """How many questions were asked."""
        return self.result.n

    @property
    def accuracy(self) -> float:
        """Share of the questions answered right."""
        return self.result.accuracy

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return self.result.ci95

    @property
    def correct(self) -> list[bool]:
        """Per question: was it answered right?"""
        return [row.correct for row in self.predictions]

    @property
    def scores(self) -> list[float]:
        """Per question: the value of the scorer, 0 to 1."""
        return [row.score for row in self.predictions]


def evaluate(
    adaptation: Answers,
    task: Task,
    examples: Sequence[Example] | None = None,
    *,
    seed: int = 0,
    max_concurrent_sequences: int | None = None,
    on_progress: OnProgress | None = None,
    journal: Journal | None = None,
) -> Evaluation:
    """Answers the examples (by default the task's test split) and scores every answer.

    A question that does not fit the context, or that gets no readable answer, is wrong.

    Args:
        journal: where answers are written as they come. Those that it holds from an interrupted
            run are not asked again, and the result is the same except for its times.

    Raises:
        UserError: there is no example, or the task's scorer is unknown.
    """
    examples = task.test if examples is None else examples
    if not examples:
        raise UserError(f"task {task.name!r}: nothing to evaluate on, the split is empty")
    find_scorer(task)  # an unknown one is refused before the work
    if journal is None:
        predictions = _answer_all(
            adaptation, examples, {}, seed, max_concurrent_sequences, on_progress
        )
    else:
        known = journal.read_together(examples)
        with journal.open(known):
            predictions = _answer_all(
                adaptation, examples, known, seed, max_concurrent_sequences, on_progress, journal
            )
    rows = tuple(
        ScoredPrediction(example, prediction, *score_answer(prediction.answer, example, task))
        for example, prediction in zip(examples, predictions, strict=True)
    )
    return Evaluation(rows, measure(task, rows))


def measure(task: Task, rows: Sequence[ScoredPrediction]) -> EvaluationResult:
    """Everything in METRICS, with the interval and the warnings.

    Raises:
        UserError: a metric that was registered elsewhere returns no finite number.
    """
    measured = {name: metric(task, rows) for name, metric in METRICS.items()}
    built_in = {name: measured[name] for name in BUILT_IN_METRICS}
    return EvaluationResult(
        **built_in,
        n=len(rows),
        ci95=wilson_interval(sum(row.correct for row in rows), len(rows)),
        score_ci95=score_interval([row.score for row in rows]),
        scorer=task.scorer,
        metrics={
            name: _check_metric(name, value)
            for name, value in measured.items()
            if name not in built_in and value is not None
        },
        warnings=describe_problems(task, rows, built_in),
    )


def _check_metric(name: str, value: Any) -> float | dict[str, float]:
    """A metric that was registered elsewhere, as plain numbers."""
    numbers: Any = value if isinstance(value, Mapping) else {name: value}
    try:
        found = {str(key): float(one) for key, one in numbers.items()}
        if not all(map(math.isfinite, found.values())):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"metric {name!r}: expected a finite number, numbers by name, or None; "
            f"found {value!r:.100}"
        ) from None
    return found if isinstance(value, Mapping) else found[name]


def _answer_all(
    adaptation: Answers,
    examples: Sequence[Example],
    known: Mapping[int, Prediction],
    seed: int,
    max_concurrent_sequences: int | None,
    on_progress: OnProgress | None,
    journal: Journal | None = None,
) -> list[Prediction]:
    """One prediction per example in their order: those that are known, and the new ones.

    Of several processes each asks its share, and all of them get all predictions.
    """
    missing = [index for index in range(len(examples)) if index not in known]
    own = take_share(missing)
    pace = Pace(on_progress, len(known), len(known) + len(own))
    found: dict[int, Prediction] = {}
    with share_questions():
        for index, prediction in adaptation.stream(
            examples,
            seed=seed,
            max_concurrent_sequences=max_concurrent_sequences,
            answered=known.keys() | (set(missing) - own),
            on_tokens=pace.count_tokens,
        ):
            found[index] = prediction
            if journal is not None:
                journal.add(prediction)
            pace.count_answer()
    predictions = {**known, **found, **_gather_others(found)}
    return [predictions[index] for index in range(len(examples))]


def _gather_others(found: Mapping[int, Prediction]) -> dict[int, Prediction]:
    """What the other processes found."""
    if num_processes() == 1:
        return {}
    rows: list[Any] = [[index, to_plain_prediction(one)] for index, one in found.items()]
    return {
        index: read_plain_prediction(row)
        for other, theirs in enumerate(gather("predictions", rows))
        if other != process_index()
        for index, row in theirs
    }
