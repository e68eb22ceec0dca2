"""Metrics of scored predictions. A new metric is one function.

    from adapt_jax.evaluation.metrics import METRICS

    @METRICS.register("mean_words")
    def mean_words(task, rows):
        return sum(len(row.prediction.reasoning.split()) for row in rows) / len(rows)

A metric returns a number, numbers by name, or None where it does not apply.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt_jax.evaluation.scorers import find_right_answers, score_answer
from adapt_jax.prompting.maj_at_k import maj_at_k
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.voting import vote
from adapt_jax.sampling.types import Candidate
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.registry import Registry

__all__ = ["BUILT_IN_METRICS", "METRICS", "Metric", "MetricValue", "ScoredPrediction"]


@dataclass(frozen=True)
class ScoredPrediction:
    """A question, what was predicted, and how good that is (see scorers.Score)."""

    example: Example
    prediction: Prediction
    score: float
    correct: bool


MetricValue = float | Mapping[str, float] | None
Metric = Callable[[Task, Sequence[ScoredPrediction]], MetricValue]
METRICS: Registry[Metric] = Registry("metric")


def _has_votes(rows: Sequence[ScoredPrediction]) -> bool:
    """Whether several candidates were sampled for a question."""
    return any(len(row.prediction.candidates) > 1 for row in rows)


def _mean(values: Sequence[float | bool]) -> float:
    return float(sum(values) / len(values))


def _count_share(candidates: Iterable[Candidate], is_counted: Callable[[Candidate], bool]) -> float:
    counted = [is_counted(candidate) for candidate in candidates]
    return _mean(counted) if counted else 0.0


def _list_candidates(rows: Sequence[ScoredPrediction]) -> Iterable[Candidate]:
    """All candidates of all questions that fit the context."""
    return (
        candidate
        for row in rows
        if not row.prediction.too_long
        for candidate in row.prediction.candidates
    )


@METRICS.register("accuracy")
def accuracy(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Share of the questions answered right; a question without an answer is wrong."""
    return _mean([row.correct for row in rows])


@METRICS.register("score")
def score(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Mean of the scorer's values."""
    return _mean([row.score for row in rows])


@METRICS.register("accuracy_majority")
def accuracy_majority(task: Task, rows: Sequence[ScoredPrediction]) -> float | None:
    """Accuracy if the paper's majority vote decided (2203.11171, section 2)."""
    if not _has_votes(rows):
        return None
    answers = [vote(row.prediction.candidates, rule="majority").answer for row in rows]
    pairs = zip(answers, rows, strict=True)
    return _mean([score_answer(answer, row.example, task).correct for answer, row in pairs])


@METRICS.register("maj_at_k")
def majority_at_k(task: Task, rows: Sequence[ScoredPrediction]) -> dict[str, float] | None:
    """maj@k: the expected accuracy of a majority of k of the candidates."""
    return _accuracy_at_k(task, rows, "majority")


@METRICS.register("distinct_at_k")
def distinct_at_k(task: Task, rows: Sequence[ScoredPrediction]) -> dict[str, float] | None:
    """The expected accuracy of k of the candidates, voting by distinct reasonings."""
    return _accuracy_at_k(task, rows, "distinct")


def _accuracy_at_k(
    task: Task, rows: Sequence[ScoredPrediction], rule: str
) -> dict[str, float] | None:
    """Accuracy by the number of candidates that vote, without bias (prompting.maj_at_k).

    Where questions were stopped early, only the candidates that all of them have are looked at:
    how many more one has depends on what they say.
    """
    if not _has_votes(rows):
        return None
    common = min(len(row.prediction.candidates) for row in rows)
    curves = []
    for row in rows:
        candidates = row.prediction.candidates[:common]
        right = find_right_answers(candidates, row.example, task)
        curves.append(maj_at_k(candidates, right, rule=rule))
    return {str(k): _mean([curve[k] for curve in curves]) for k in curves[0]}


@METRICS.register("agreement")
def agreement(task: Task, rows: Sequence[ScoredPrediction]) -> float | None:
    """The winner's share of the vote, mean over the questions: how sure the candidates are."""
    return _mean([row.prediction.vote.confidence for row in rows]) if _has_votes(rows) else None


@METRICS.register("saved_share")
def saved_share(task: Task, rows: Sequence[ScoredPrediction]) -> float | None:
    """Share of the candidates that early stopping did without."""
    if not _has_votes(rows):
        return None
    saved = sum(row.prediction.candidates_saved for row in rows)
    return saved / (saved + sum(len(row.prediction.candidates) for row in rows))


@METRICS.register("repeat_share")
def repeat_share(task: Task, rows: Sequence[ScoredPrediction]) -> float | None:
    """Share of the answering candidates that repeat a reasoning for the same answer."""
    if not _has_votes(rows):
        return None
    votes = [row.prediction.vote for row in rows]
    answering = sum(len(row.prediction.candidates) for row in rows)
    answering -= sum(vote.abstained for vote in votes)
    return sum(vote.repeats for vote in votes) / answering if answering else 0.0


@METRICS.register("abstained")
def abstained(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Share of the questions to which no candidate gave a readable answer."""
    return _mean([row.prediction.answer is None for row in rows])


@METRICS.register("abstained_candidates")
def abstained_candidates(task: Task, rows: Sequence[ScoredPrediction]) -> float | None:
    """Share of the candidates without a readable answer, those cut off among them."""
    if not _has_votes(rows):
        return None
    silent = sum(row.prediction.vote.abstained for row in rows)
    return silent / sum(len(row.prediction.candidates) for row in rows)


@METRICS.register("cut_off")
def cut_off(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Share of the candidates that reached max_new_tokens before a readable answer."""
    return _count_share(
        _list_candidates(rows), lambda c: c.finish_reason == "length" and c.answer is None
    )


@METRICS.register("no_stop")
def no_stop(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Share of the candidates that answer, and then run on to max_new_tokens."""
    return _count_share(
        _list_candidates(rows), lambda c: c.finish_reason == "length" and c.answer is not None
    )


@METRICS.register("unreadable")
def unreadable(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Share of the candidates that end by themselves and hold no readable answer."""
    return _count_share(
        _list_candidates(rows), lambda c: c.finish_reason != "length" and c.answer is None
    )


@METRICS.register("too_long")
def too_long(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Share of the questions that do not fit the context; they count as wrong."""
    return _mean([row.prediction.too_long for row in rows])


@METRICS.register("prompt_tokens")
def prompt_tokens(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Tokens before the answer, per question (the shared prefix counted in full)."""
    return _mean([row.prediction.prompt_tokens for row in rows])


@METRICS.register("generated_tokens")
def generated_tokens(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Generated tokens per question, summed over its candidates."""
    return _mean([row.prediction.generated_tokens for row in rows])


@METRICS.register("seconds")
def seconds(task: Task, rows: Sequence[ScoredPrediction]) -> float:
    """Wall-clock seconds per question, without those of compiling."""
    return _mean([row.prediction.seconds for row in rows])


BUILT_IN_METRICS = tuple(METRICS)  # fields of EvaluationResult; others are in its `metrics`
