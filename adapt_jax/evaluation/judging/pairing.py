"""Pairs the questions of two sides: by id where the ids mean the same questions, else by text."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adapt_jax.evaluation.judging.scored import Run, ScoredAnswer, normalize_question
from adapt_jax.utils.display_text import quote_text
from adapt_jax.utils.errors import UserError

__all__ = ["Pairing", "Question", "Side", "gather_side", "pair_sides"]

MIN_AGREEMENT = 0.9  # of equal ids, that are the same question; with fewer, ids mean nothing
Key = Callable[["Question"], str]


@dataclass(frozen=True)
class Question:
    """One question of a side: the mean score over its runs and epochs, and its first answer.

    Attributes:
        by_run: the score in each run or epoch; empty where there is one, or where one is missing.
    """

    score: float
    first: ScoredAnswer
    by_run: tuple[float, ...] = ()

    @property
    def id(self) -> str:
        """The id of the question, empty where there is none."""
        return self.first.id


@dataclass(frozen=True)
class Side:
    """What one side answered.

    Attributes:
        questions: each once.
        run_means: the mean score of each run or epoch, where there are several.
    """

    name: str
    runs: Sequence[Run]
    questions: Sequence[Question]
    run_means: Sequence[float]

    @property
    def scores(self) -> list[float]:
        """The score of each question."""
        return [one.score for one in self.questions]

    @property
    def is_verdict(self) -> bool:
        """Whether every question is right or wrong, and answered once."""
        return all(score in (0.0, 1.0) for score in self.scores)


@dataclass(frozen=True)
class Pairing:
    """The questions that both sides answered.

    Attributes:
        by: what they were paired by: ``id``, ``question`` (its text), or ``record`` (its hash).
        only_first, only_second: how many questions only one side has.
    """

    pairs: Sequence[tuple[Question, Question]]
    by: str
    only_first: int
    only_second: int


def gather_side(name: str, runs: Sequence[Run]) -> Side:
    """One side of a comparison from its runs; a question's score is its mean over them.

    Raises:
        UserError: a question occurs twice in a run that names no epochs, or two runs are of
            different questions or metrics.
    """
    if len({run.metric for run in runs}) > 1:
        metrics = ", ".join(sorted({run.metric for run in runs}))
        raise UserError(f"{name}: runs with different metrics ({metrics}); name one by --metric")
    groups: dict[str, list[ScoredAnswer]] = {}
    repeats: dict[tuple[int, str], dict[str, float]] = {}
    for number, run in enumerate(runs):
        seen: dict[tuple[str, str], ScoredAnswer] = {}
        for answer in run.answers:
            key = _identify(answer)
            if (other := seen.setdefault((key, answer.repeat), answer)) is not answer:
                raise UserError(
                    f"{answer.where}: {quote_text(answer.id or answer.question, 40)} occurs twice "
                    f"(first at {other.where}); epochs or seeds of a question have a column "
                    "`epoch` or `seed`, or files of their own"
                )
            group = groups.setdefault(key, [])
            if group and not _is_same_question(group[0], answer):
                raise UserError(
                    f"{answer.where}: {quote_text(answer.id, 40)} is another question than at "
                    f"{group[0].where}; runs of one side answer the same questions"
                )
            group.append(answer)
            repeats.setdefault((number, answer.repeat), {})[key] = answer.score
    # a label of one answer each, such as a seed for each question, is no run
    is_repeated = len(repeats) > 1 and any(len(group) > 1 for group in groups.values())
    questions = []
    for key, group in groups.items():
        by_run = [scores[key] for scores in repeats.values() if key in scores]
        is_whole = is_repeated and len(by_run) == len(repeats)
        questions.append(
            Question(
                float(np.mean([one.score for one in group])),
                group[0],
                tuple(by_run) if is_whole else (),
            )
        )
    means = [float(np.mean([*scores.values()])) for scores in repeats.values()]
    means = means if is_repeated else []
    return Side(name, runs, questions, means)


def pair_sides(first: Side, second: Side) -> Pairing:
    """The questions of both sides, in the order of the first.

    Ids count where the questions behind them are the same, as far as the files say; otherwise
    questions are paired by the hash of their record, or by their text.

    Raises:
        UserError: the sides share no question.
    """
    by_id = _pair_by(first, second, lambda one: one.id)
    same = [pair for pair in by_id if _is_same_question(pair[0].first, pair[1].first)]
    found, by = same, "id"
    if not by_id or len(same) < MIN_AGREEMENT * len(by_id):
        by_record = _pair_by(first, second, lambda one: one.first.digest)
        by_text = _pair_by(first, second, lambda one: normalize_question(one.first.question))
        found, by = max((by_record, "record"), (by_text, "question"), key=lambda one: len(one[0]))
    if not found:
        _refuse(first, second, by_id)
    return Pairing(found, by, len(first.questions) - len(found), len(second.questions) - len(found))


def _identify(answer: ScoredAnswer) -> str:
    """What distinguishes the questions of one file."""
    return answer.id or "text " + normalize_question(answer.question)


def _pair_by(first: Side, second: Side, key: Key) -> list[tuple[Question, Question]]:
    """The questions with equal keys; an empty key, or one that a side has twice, pairs nothing."""
    others = _index(second.questions, key)
    return [
        (one, others[name]) for name, one in _index(first.questions, key).items() if name in others
    ]


def _index(questions: Iterable[Question], key: Key) -> dict[str, Question]:
    keyed = [(key(one), one) for one in questions]
    counts = Counter(name for name, _ in keyed)
    return {name: one for name, one in keyed if name and counts[name] == 1}


def _is_same_question(one: ScoredAnswer, other: ScoredAnswer) -> bool:
    """Whether two answers may be to the same question, as far as their files say."""
    if one.digest and other.digest:
        return one.digest == other.digest
    first, second = normalize_question(one.question), normalize_question(other.question)
    # a log may hold the question within its prompt
    return not first or not second or first in second or second in first


def _refuse(first: Side, second: Side, by_id: Sequence[tuple[Question, Question]]) -> None:
    """Says why two sides cannot be paired."""
    where = f"{first.name} and {second.name}: cannot be paired"
    if by_id:
        one, other = by_id[0]
        raise UserError(
            f"{where}: the ids are the same, but not the questions: {quote_text(one.id, 40)} is "
            f"{quote_text(one.first.question)} and {quote_text(other.first.question)}"
        )
    shown = [side.questions[0].first for side in (first, second)]
    ids = " and ".join(quote_text(one.id or one.question, 40) for one in shown)
    raise UserError(
        f"{where}: no id and no text of a question is in both (they begin with {ids}); both need "
        "the same ids, or a column `question`"
    )
