"""What is measured on judged questions. A new metric is one function with a name in METRICS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.voting import maj_at_k, vote
from adapt_jax.tasks.task import Example, Task


@dataclass(frozen=True)
class ScoredPrediction:
    """A question, what was said to it, and whether that is right."""

    example: Example
    answered: Prediction
    correct: bool


Metric = Callable[[Task, Sequence[ScoredPrediction]], float | dict[str, float] | None]


def mean(values: Sequence[float | bool]) -> float:
    """The arithmetic mean; the caller sees to it that there is a value."""
    return float(sum(values) / len(values))


def sampled(judged: Sequence[ScoredPrediction]) -> bool:
    """Whether the questions were answered by several candidates each."""
    return any(len(row.answered.candidates) > 1 for row in judged)


def accuracy(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Share of questions answered right; a question without an answer is wrong."""
    return mean([row.correct for row in judged])


def accuracy_majority(task: Task, judged: Sequence[ScoredPrediction]) -> float | None:
    """The same candidates under the paper's majority vote (2203.11171, section 2)."""
    if not sampled(judged):
        return None
    answers = [vote(row.answered.candidates, rule="majority").answer for row in judged]
    return mean([task.grade(a, row.example) for a, row in zip(answers, judged, strict=True)])


def repeat_share(task: Task, judged: Sequence[ScoredPrediction]) -> float | None:
    """Share of answering candidates that repeat an earlier reasoning for the same answer."""
    if not sampled(judged):
        return None
    votes = [row.answered.vote for row in judged]
    answering = sum(len(row.answered.candidates) for row in judged)
    answering -= sum(vote.abstained for vote in votes)
    return sum(vote.repeats for vote in votes) / answering if answering else 0.0


def at_k(task: Task, judged: Sequence[ScoredPrediction], rule: str) -> dict[str, float] | None:
    """Accuracy by the number of candidates that vote, without bias (voting.maj_at_k).

    Where questions were stopped early, only the candidates that all of them have are looked at:
    how many more one has depends on what they say.
    """
    if not sampled(judged):
        return None
    share = min(len(row.answered.candidates) for row in judged)
    curves = []
    for row in judged:
        candidates = row.answered.candidates[:share]
        answers = {c.answer for c in candidates if c.answer is not None}
        right = {answer for answer in answers if task.grade(answer, row.example)}
        curves.append(maj_at_k(candidates, right, rule=rule))
    return {str(k): mean([curve[k] for curve in curves]) for k in curves[0]}


def majority_at_k(task: Task, judged: Sequence[ScoredPrediction]) -> dict[str, float] | None:
    """maj@k: what the paper's majority of k candidates gives, ties shared."""
    return at_k(task, judged, "majority")


def distinct_at_k(task: Task, judged: Sequence[ScoredPrediction]) -> dict[str, float] | None:
    """The same for the vote that counts distinct reasonings."""
    return at_k(task, judged, "distinct")


def agreement(task: Task, judged: Sequence[ScoredPrediction]) -> float | None:
    """The winner's share of the vote, mean over the questions: how sure the candidates are."""
    return mean([row.answered.vote.confidence for row in judged]) if sampled(judged) else None


def saved_share(task: Task, judged: Sequence[ScoredPrediction]) -> float | None:
    """Share of the candidates that early stopping did without."""
    if not sampled(judged):
        return None
    saved = sum(row.answered.saved for row in judged)
    return saved / (saved + sum(len(row.answered.candidates) for row in judged))


def abstained(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Share of questions to which no candidate gave an answer that can be read."""
    return mean([row.answered.answer is None for row in judged])


def abstained_candidates(task: Task, judged: Sequence[ScoredPrediction]) -> float | None:
    """Share of the candidates that gave no answer that can be read, the cut off among them."""
    if not sampled(judged):
        return None
    silent = sum(row.answered.vote.abstained for row in judged)
    return silent / sum(len(row.answered.candidates) for row in judged)


def cut_off(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Share of candidates that ran out of length; each of them abstains."""
    reasons = [c.finish_reason == "length" for row in judged for c in row.answered.candidates]
    return mean(reasons) if reasons else 0.0


def too_long(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Share of questions that do not fit the context; they count as wrong."""
    return mean([row.answered.too_long for row in judged])


def prompt_tokens(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Tokens in front of the answer, per question (the shared prefix counted in full)."""
    return mean([row.answered.prompt_tokens for row in judged])


def generated_tokens(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Generated tokens per question, summed over its candidates."""
    return mean([row.answered.generated_tokens for row in judged])


def seconds(task: Task, judged: Sequence[ScoredPrediction]) -> float:
    """Wall-clock seconds per question, compilation included."""
    return mean([row.answered.seconds for row in judged])


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "accuracy_majority": accuracy_majority,
    "maj_at_k": majority_at_k,
    "distinct_at_k": distinct_at_k,
    "agreement": agreement,
    "saved_share": saved_share,
    "repeat_share": repeat_share,
    "abstained": abstained,
    "abstained_candidates": abstained_candidates,
    "cut_off": cut_off,
    "too_long": too_long,
    "prompt_tokens": prompt_tokens,
    "generated_tokens": generated_tokens,
    "seconds": seconds,
}
