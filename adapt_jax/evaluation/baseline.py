"""The baseline that reads no question: always the commonest label."""

from collections import Counter

from adapt_jax.evaluation.results import Baseline
from adapt_jax.evaluation.scorers import score_answer
from adapt_jax.tasks.answers import read_gold
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task

__all__ = ["measure_commonest_label", "score_label"]

MAX_LABELS = 5  # distinct answers of a task that names no choices, such as yes and no
MIN_QUESTIONS_PER_LABEL = 4  # so that few questions with few answers are no labels yet


def measure_commonest_label(task: Task) -> Baseline | None:
    """The mean score on the test split of always saying the commonest label of the training split.

    None where the answers are no labels. Without training examples the test split's own commonest
    label is taken.
    """
    if not task.test or not _has_labels(task):
        return None
    counts = Counter(_read_label(task, example) for example in task.train or task.test)
    label = max(counts, key=lambda one: counts[one])
    scores = score_label(task, label)
    return Baseline(label=label, accuracy=sum(scores) / len(scores), n=len(scores))


def score_label(task: Task, label: str) -> list[float]:
    """The score of the label as the answer to each test question."""
    return [score_answer(label, example, task).value for example in task.test]


def _has_labels(task: Task) -> bool:
    if all(example.choices for example in task.test):
        return True
    labels = {_read_label(task, example) for example in task.test}
    few = len(labels) <= MAX_LABELS
    return few and len(task.test) >= MIN_QUESTIONS_PER_LABEL * len(labels)


def _read_label(task: Task, example: Example) -> str:
    """The gold answer in canonical form."""
    return read_gold(task.parser, example.answer, example.choices) or example.answer
