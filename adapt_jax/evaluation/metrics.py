"""What is measured on judged questions. A new metric is one function with a name in METRICS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adapt_jax.prompting.self_consistency import Vote, vote
from adapt_jax.sampling.decoding import Candidate
from adapt_jax.tasks.task import Example, Task


@dataclass(frozen=True)
class Answered:
    """What an adaptation says to one question.

    ``answer`` is canonical, None where every candidate abstained; ``reasoning`` is that of the
    first candidate which gave the answer. ``prompt_tokens`` counts everything in front of the
    answer, soft prompt included; ``generated_tokens`` sums over the candidates; ``seconds`` is
    this question's share of the wall-clock time, compilation included.
    """

    example_id: str
    answer: str | None
    reasoning: str
    candidates: tuple[Candidate, ...]
    vote: Vote
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    too_long: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For a predictions file: the answer, the vote, and every candidate."""
        return {
            "id": self.example_id,
            "answer": self.answer,
            "reasoning": self.reasoning,
            "vote": {
                "rule": self.vote.rule,
                "confidence": self.vote.confidence,
                "counts": {str(answer): count for answer, count in self.vote.counts.items()},
                "abstained": self.vote.abstained,
            },
            "candidates": [
                {
                    "text": candidate.text,
                    "reasoning": candidate.reasoning,
                    "answer": candidate.answer,
                    "log_probability": candidate.log_probability,
                    "finish_reason": candidate.finish_reason,
                }
                for candidate in self.candidates
            ],
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "seconds": round(self.seconds, 6),
            "too_long": self.too_long,
        }


@dataclass(frozen=True)
class Judged:
    """A question, what was said to it, and whether that is right."""

    example: Example
    answered: Answered
    correct: bool


Metric = Callable[[Task, Sequence[Judged]], float | None]


def mean(values: Sequence[float | bool]) -> float:
    """The arithmetic mean; the caller sees to it that there is a value."""
    return float(sum(values) / len(values))


def sampled(judged: Sequence[Judged]) -> bool:
    """Whether the questions were answered by several candidates each."""
    return any(len(row.answered.candidates) > 1 for row in judged)


def accuracy(task: Task, judged: Sequence[Judged]) -> float:
    """Share of questions answered right; a question without an answer is wrong."""
    return mean([row.correct for row in judged])


def accuracy_majority(task: Task, judged: Sequence[Judged]) -> float | None:
    """The same candidates under the paper's majority vote (2203.11171, section 2)."""
    if not sampled(judged):
        return None
    answers = [vote(row.answered.candidates, rule="majority").answer for row in judged]
    return mean([task.grade(a, row.example) for a, row in zip(answers, judged, strict=True)])


def repeat_share(task: Task, judged: Sequence[Judged]) -> float | None:
    """Share of answering candidates that repeat an earlier reasoning for the same answer."""
    if not sampled(judged):
        return None
    votes = [row.answered.vote for row in judged]
    answering = sum(len(row.answered.candidates) for row in judged)
    answering -= sum(vote.abstained for vote in votes)
    return sum(vote.repeats for vote in votes) / answering if answering else 0.0


def abstained(task: Task, judged: Sequence[Judged]) -> float:
    """Share of questions to which no candidate gave an answer that can be read."""
    return mean([row.answered.answer is None for row in judged])


def cut_off(task: Task, judged: Sequence[Judged]) -> float:
    """Share of candidates that ran out of length; each of them abstains."""
    reasons = [c.finish_reason == "length" for row in judged for c in row.answered.candidates]
    return mean(reasons) if reasons else 0.0


def too_long(task: Task, judged: Sequence[Judged]) -> float:
    """Share of questions that do not fit the context; they count as wrong."""
    return mean([row.answered.too_long for row in judged])


def prompt_tokens(task: Task, judged: Sequence[Judged]) -> float:
    """Tokens in front of the answer, per question (the shared prefix counted in full)."""
    return mean([row.answered.prompt_tokens for row in judged])


def generated_tokens(task: Task, judged: Sequence[Judged]) -> float:
    """Generated tokens per question, summed over its candidates."""
    return mean([row.answered.generated_tokens for row in judged])


def seconds(task: Task, judged: Sequence[Judged]) -> float:
    """Wall-clock seconds per question, compilation included."""
    return mean([row.answered.seconds for row in judged])


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "accuracy_majority": accuracy_majority,
    "repeat_share": repeat_share,
    "abstained": abstained,
    "cut_off": cut_off,
    "too_long": too_long,
    "prompt_tokens": prompt_tokens,
    "generated_tokens": generated_tokens,
    "seconds": seconds,
}
