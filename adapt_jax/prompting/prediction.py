"""Prediction: the answer of an adaptation to one question."""

from dataclasses import dataclass
from typing import Any

from adapt_jax.prompting.voting import Vote
from adapt_jax.sampling.types import Candidate

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """The answer of an adaptation to one question, and how it came about.

    Attributes:
        answer: in canonical form; None if every candidate abstained.
        reasoning: of the first candidate with this answer.
        candidates: those that were voted on.
        prompt_tokens: everything before the answer, the soft prompt included; summed over the
            members of an ensemble.
        generated_tokens: summed over the candidates.
        seconds: this question's share of the wall-clock time, without that of compiling.
        candidates_saved: how many candidates early stopping did without.
        too_long: whether the context left no room for an answer.
        prompt_sha256: equal for equal prompts (prompt.hash_prompts); ``Adaptation.prompt_text``
            shows the prompt.
    """

    example_id: str
    answer: str | None
    reasoning: str
    candidates: tuple[Candidate, ...]
    vote: Vote
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    candidates_saved: int = 0
    too_long: bool = False
    prompt_sha256: str = ""

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
                "repeats": self.vote.repeats,
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
            "candidates_saved": self.candidates_saved,
            "seconds": round(self.seconds, 6),
            "too_long": self.too_long,
            "prompt_sha256": self.prompt_sha256,
        }
