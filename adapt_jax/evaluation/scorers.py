"""Scorers: how good one answer is. A task names its scorer by the key ``scorer``.

@SCORERS.register("half_for_any")
def half_for_any(predicted, example, task):
    right = task.grade(predicted, example)
    return Score(1.0 if right else 0.5 if predicted is not None else 0.0, right)
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from adapt_jax.tasks.answers import read_gold
from adapt_jax.tasks.answers.text_scores import (
    TEXT_SCORES,
    check_installed,
    find_library_version,
    split_squad_words,
)
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry

__all__ = [
    "SCORERS",
    "Score",
    "Scorer",
    "TextScorer",
    "canonicalize_references",
    "exact",
    "find_right_answers",
    "find_scorer",
    "score_answer",
    "score_candidates",
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
@SCORERS.register("squad")
def token_f1(predicted: str | None, example: Example, task: Task) -> Score:
    """F1 and exact match of SQuAD, by its own normalisation (evaluate-v2.0.py).

    Case, punctuation and the articles a, an, the are ignored. The value is the F1 of the words in
    common with the nearest accepted answer; the answer counts as correct where the texts are then
    equal. No answer at all is right where no accepted answer has a word.
    """
    given = split_squad_words(predicted or "")
    words = [split_squad_words(answer) for answer in example.accepted]
    has_answer = any(words)
    if predicted is None and has_answer:
        return Score(0.0, False)
    value = TEXT_SCORES["token_f1"](predicted or "", example.accepted)
    return Score(value, given in [one for one in words if one or not has_answer])


class TextScorer:
    """Scores a text by its similarity to the accepted answers; both are in canonical form.

    It counts as correct where it equals one of them.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def version(self) -> str:
        """The version of the library, which the scores depend on."""
        return f"1, {find_library_version(self.name)}"

    def check(self) -> None:
        """Raises UserError where its library is not installed."""
        check_installed(self.name)

    def __call__(self, predicted: str | None, example: Example, task: Task) -> Score:
        """The similarity to the accepted answers, 0 where no answer could be read."""
        if predicted is None:
            return Score(0.0, False)
        references = canonicalize_references(example, task)
        value = TEXT_SCORES[self.name](predicted, references)
        return Score(value, task.grade(predicted, example))


for _name in ("rouge1", "rouge2", "rougeL", "bleu", "chrf"):
    SCORERS.register(_name)(TextScorer(_name))


def canonicalize_references(example: Example, task: Task) -> list[str]:
    """The accepted answers in the form in which answers are read."""
    return [
        read_gold(task.parser, answer, example.choices) or answer for answer in example.accepted
    ]


def find_scorer(task: Task, where: str | None = None) -> Scorer:
    """The scorer that the task names; ``where`` is what messages call the task.

    Raises:
        UserError: there is none of this name, or its library is not installed.
    """
    scorer = SCORERS.find(task.scorer, f"{where or f'task {task.name!r}'}: scorer")
    if isinstance(scorer, TextScorer):
        scorer.check()
    return scorer


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


def score_candidates(candidates: Iterable[Any], example: Example, task: Task) -> dict[str, float]:
    """The score of each answer of the candidates."""
    answers = dict.fromkeys(one.answer for one in candidates if one.answer is not None)
    return {answer: score_answer(answer, example, task).value for answer in answers}


def find_right_answers(candidates: Iterable[Any], example: Example, task: Task) -> set[str]:
    """Those answers of the candidates that are right."""
    answers = {one.answer for one in candidates if one.answer is not None}
    return {answer for answer in answers if score_answer(answer, example, task).correct}
