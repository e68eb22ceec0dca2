"""What an adaptation answers to one question."""

from dataclasses import dataclass
from typing import Any

from adapt_jax.prompting.voting import Vote
from adapt_jax.sampling.types import Candidate


@dataclass(frozen=True)
class Prediction:
    """What an adaptation says to one question.

    ``answer`` is canonical, None where every candidate abstained; ``reasoning`` is that of the
    first candidate which gave the answer. ``prompt_tokens`` counts everything in front of the
    answer, soft prompt included, for every member of an ensemble; ``generated_tokens`` sums over
    the candidates that count, ``candidates_saved`` is how many early stopping did without, and
    ``seconds`` is this question's share of the wall-clock time, compilation included.
    ``prompt_sha256`` tells whether two predictions come from the same prompt (see
    prompt.hash_prompts); ``Adaptation.prompt_text`` shows it.
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
