"""Self-consistency: sample many reasonings, then vote (2203.11171)."""

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from adapt_jax.methods.chain_of_thought import ChainOfThought
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.prompting.voting import VOTES
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import nearest


class SelfConsistency(ChainOfThought):
    """Chain of thought with many sampled candidates; 40 paths at 0.7 and top-k 40 in the paper.

    With ``stop_at`` a question gets no more candidates once its leading answer beats the runner-up
    with this probability (voting.should_stop); ``candidates`` is then the most that it gets.
    """

    name: ClassVar[str] = "self_consistency"
    candidates: int = Field(20, gt=0)
    temperature: float = Field(0.7, ge=0)
    top_k: int = Field(40, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    vote: str = "distinct"
    stop_at: float | None = None

    @field_validator("vote")
    @classmethod
    def _known(cls, rule: str) -> str:
        if rule not in VOTES:
            raise ValueError(
                f"unknown rule {rule!r}{nearest(rule, VOTES)}; known: {', '.join(VOTES)}"
            )
        return rule

    @field_validator("stop_at")
    @classmethod
    def _is_a_threshold(cls, stop_at: float | None) -> float | None:
        if stop_at is not None and not 0.5 < stop_at < 1:
            raise ValueError("expected a probability above 0.5 and below 1, or null (off)")
        return stop_at

    @model_validator(mode="after")
    def _differ(self) -> "SelfConsistency":
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.candidates} candidates at temperature 0 would all be the same; set a "
                "temperature above 0, or 1 candidate"
            )
        return self

    def adapt(self, model: PretrainedDecoder, task: Task, *, seed: int) -> Prompt:
        """Chain of thought's prompt with the same demonstrations, sampled and voted."""
        prompt = super().adapt(model, task, seed=seed)
        decoding = replace(
            prompt.generation_config,
            candidates=self.candidates,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )
        return replace(prompt, generation_config=decoding, vote=self.vote, stop_at=self.stop_at)
