"""Metrics of labels, of sampled candidates and of texts; they are in ``metrics`` of a result."""

import math
from collections import Counter
from collections.abc import Sequence

from adapt_jax.evaluation.metrics import METRICS, ScoredPrediction
from adapt_jax.evaluation.scorers import canonicalize_references, find_right_answers
from adapt_jax.tasks.answers import read_gold
from adapt_jax.tasks.answers.text_scores import compute_corpus_score
from adapt_jax.tasks.task import Task

__all__ = ["pass_at_k"]

LABEL_PARSERS = ("label", "yes_no")
NUM_BINS = 10  # of equal width, for the calibration error

Rows = Sequence[ScoredPrediction]


# ---- labels


@METRICS.register("macro_f1")
def macro_f1(task: Task, rows: Rows) -> float | None:
    """The mean F1 of all labels that are a gold or a predicted answer (as scikit-learn's)."""
    counts = _count_labels(task, rows)
    if counts is None:
        return None
    right, predicted, gold = counts
    labels = predicted.keys() | gold.keys()
    # 2 tp / (2 tp + fp + fn)
    values = [2 * right[one] / (predicted[one] + gold[one]) for one in labels]
    return math.fsum(values) / len(values)


@METRICS.register("label_precision")
def label_precision(task: Task, rows: Rows) -> dict[str, float] | None:
    """By label: the share of its predictions that are right; 0 where it is never predicted."""
    counts = _count_labels(task, rows)
    if counts is None:
        return None
    right, predicted, gold = counts
    return {
        one: right[one] / predicted[one] if predicted[one] else 0.0
        for one in sorted(predicted.keys() | gold.keys())
    }


@METRICS.register("label_recall")
def label_recall(task: Task, rows: Rows) -> dict[str, float] | None:
    """By label: the share of its questions that are answered right; labels without one are left."""
    counts = _count_labels(task, rows)
    if counts is None:
        return None
    right, _, gold = counts
    return {one: right[one] / gold[one] for one in sorted(gold)}


def _count_labels(task: Task, rows: Rows) -> tuple[Counter[str], Counter[str], Counter[str]] | None:
    """By label: right answers, predictions and gold answers; None where answers are no labels.

    An answer that could not be read is no prediction. Of several accepted answers the first is the
    label, unless another one was predicted.
    """
    if task.parser not in LABEL_PARSERS:
        return None
    right: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    for row in rows:
        example, answer = row.example, row.prediction.answer
        label = read_gold(task.parser, example.answer, example.choices) or example.answer
        if answer is not None and row.correct:
            label = answer
            right[label] += 1
        gold[label] += 1
        if answer is not None:
            predicted[answer] += 1
    return right, predicted, gold


# ---- sampled candidates


@METRICS.register("pass_at_k")
def pass_at_k(task: Task, rows: Rows) -> dict[str, float] | None:
    """pass@k: the chance that one of k candidates is right, without bias (2107.03374, equation 1).

    Where questions were stopped early, only the candidates that all of them have are looked at.
    """
    n = min(len(row.prediction.candidates) for row in rows)
    if max(len(row.prediction.candidates) for row in rows) < 2 or n < 1:
        return None
    sizes = sorted({n, *(2**i for i in range(n.bit_length()))})
    counts = []
    for row in rows:
        candidates = row.prediction.candidates[:n]
        right = find_right_answers(candidates, row.example, task)
        counts.append(sum(one.answer in right for one in candidates))
    return {str(k): _mean([_estimate_pass(n, c, k) for c in counts]) for k in sizes}


def _estimate_pass(n: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k)."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


@METRICS.register("calibration_error")
def calibration_error(task: Task, rows: Rows) -> float | None:
    """Expected calibration error of the vote: how far its agreement is from its accuracy.

    Questions are put into ten bins by the winner's share of the vote; the distance between mean
    share and accuracy of each bin is weighted by its questions (1706.04599, equation 3). Questions
    without an answer are left out.
    """
    if not any(len(row.prediction.candidates) > 1 for row in rows):
        return None
    answered = [row for row in rows if row.prediction.answer is not None]
    if not answered:
        return None
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row in answered:
        confidence = row.prediction.vote.confidence
        number = min(NUM_BINS - 1, max(0, math.ceil(confidence * NUM_BINS) - 1))
        bins.setdefault(number, []).append((confidence, row.correct))
    gaps = (abs(math.fsum(c for c, _ in one) - sum(r for _, r in one)) for one in bins.values())
    return math.fsum(gaps) / len(answered)


# ---- texts


@METRICS.register("corpus_bleu")
def corpus_bleu(task: Task, rows: Rows) -> float | None:
    """BLEU of all answers together, 0 to 100, where the scorer is ``bleu``."""
    return _score_corpus("bleu", task, rows)


@METRICS.register("corpus_chrf")
def corpus_chrf(task: Task, rows: Rows) -> float | None:
    """chrF of all answers together, 0 to 100, where the scorer is ``chrf``."""
    return _score_corpus("chrf", task, rows)


def _score_corpus(name: str, task: Task, rows: Rows) -> float | None:
    """An unreadable answer is an empty text."""
    if task.scorer != name:
        return None
    references = [canonicalize_references(row.example, task) for row in rows]
    return compute_corpus_score(name, [row.prediction.answer or "" for row in rows], references)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
