"""Scorers: how good one answer is. A task names its scorer by the key ``scorer``.

@SCORERS.register("half_for_any")
def half_for_any(predicted, example, task):
    right = task.grade(predicted, example)
    return Score(1.0 if right else 0.5 if predicted is not None else 0.0, right)
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry

__all__ = [
    "SCORERS",
    "Score",
    "Scorer",
    "exact",
    "find_right_answers",
    "find_scorer",
    "score_answer",
    "token_f1",
]

DEFAULT_SCORER = "exact"


class Score(NamedTuple):
    """How good an answer is.

    Attributes:
        value: from 0 to 1; its mean over the questions is the reported score.
        correct: whether the answer counts as right. Accuracy, its interval and the tests between
            rungs count these.
    """

    value: float
    correct: bool


# (predicted answer or None, example, task) -> Score. None: no answer could be read.
Scorer = Callable[[str | None, Example, Task], Score]
SCORERS: Registry[Scorer] = Registry("scorer")


@SCORERS.register("exact")
def exact(predicted: str | None, example: Example, task: Task) -> Score:
    """1 where the answer equals an accepted one in canonical form, else 0."""
    correct = task.grade(predicted, example)
    return Score(float(correct), correct)


@SCORERS.register("token_f1")
def token_f1(predicted: str | None, example: Example, task: Task) -> Score:
    """F1 of the words in common with the nearest accepted answer, as SQuAD counts it.

    Case, punctuation and the articles a, an, the are ignored (1606.05250, section 6.1). The answer
    counts as correct where the texts are then equal (the exact match of SQuAD).
    """
    if predicted is None:
        return Score(0.0, False)
    given = _split_words(predicted)
    references = [_split_words(answer) for answer in example.accepted]
    value = max(_compute_f1(given, reference) for reference in references)
    return Score(value, given in references)


def find_scorer(task: Task, where: str | None = None) -> Scorer:
    """The scorer that the task names; ``where`` is what messages call the task.

    Raises:
        UserError: there is none of this name.
    """
    return SCORERS.find(task.scorer, f"{where or f'task {task.name!r}'}: scorer")


def score_answer(predicted: str | None, example: Example, task: Task) -> Score:
    """The score of one answer by the task's scorer.

    Raises:
        UserError: no such scorer, or it returns no Score from 0 to 1.
    """
    score = find_scorer(task)(predicted, example, task)
    if not isinstance(score, Score) or not 0 <= score.value <= 1:
        raise UserError(
            f"scorer {task.scorer!r}: expected a Score with a value from 0 to 1, "
            f"found {score!r:.100}"
        )
    return Score(float(score.value), bool(score.correct))


def find_right_answers(candidates: Iterable[Any], example: Example, task: Task) -> set[str]:
    """Those answers of the candidates that are right."""
    answers = {one.answer for one in candidates if one.answer is not None}
    return {answer for answer in answers if score_answer(answer, example, task).correct}


def _split_words(text: str) -> list[str]:
    """The words of a text as SQuAD's own script normalises them."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _compute_f1(given: list[str], reference: list[str]) -> float:
    if not given or not reference:
        return float(given == reference)
    common = sum((Counter(given) & Counter(reference)).values())
    return 2 * common / (len(given) + len(reference))
