"""Self-consistency: many sampled reasonings per question, and a vote on their answers.

It is enough where chain of thought often finds the right answer but not always: wrong reasonings
disagree with each other, right ones meet in the same answer. Long answers, such as summaries, are
not counted: the one that is most similar to the others wins (minimum Bayes risk). It costs as many
times the generated tokens of chain of thought as it draws candidates, unless ``stop_at`` ends clear
votes early.
Paper: 2203.11171.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.scorers import score_candidates
from adapt_jax.methods.base import DEFAULT_RUN, MethodResult, RunOptions, SeedEffect
from adapt_jax.methods.chain_of_thought import ChainOfThought
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.prompting.voting import AUTO_RULES, VOTES, VoteChoice, choose_vote_rule
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.answers.text_scores import TEXT_SCORES
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import nearest

__all__ = ["SelfConsistency"]

AUTO, MBR = "auto", "mbr"
LONG_FORM = ("rouge1", "rouge2", "rougeL", "bleu", "chrf")  # scorers of answers of any length


@METHODS.register("self_consistency")
class SelfConsistency(ChainOfThought):
    """Chain of thought with many sampled candidates; the paper draws 40 at 0.7 and top-k 40.

    Attributes:
        candidates: reasonings per question; the most, where ``stop_at`` is given.
        vote: how candidates become one answer, a name in prompting.voting.VOTES. "mbr" takes the
            answer most similar to the others, by the task's scorer; it is the default where that
            is ROUGE, BLEU or chrF. "auto" takes the best rule on the development split, on which
            it draws all candidates.
        stop_at: a question gets no more candidates once its leading answer beats the runner-up
            with this probability (2305.11860); null draws all of them.
    """

    inspected_by_default: ClassVar[bool] = True

    candidates: int = Field(20, gt=0, le=10_000)
    temperature: float = Field(0.7, ge=0, le=100)
    top_k: int = Field(40, ge=0, le=10_000_000)
    top_p: float = Field(1.0, gt=0, le=1)
    vote: str = "distinct"
    stop_at: float | None = None

    @field_validator("vote")
    @classmethod
    def _check_vote(cls, rule: str) -> str:
        known = [*VOTES, MBR, AUTO]
        if rule not in known:
            raise ValueError(
                f"unknown rule {rule!r}{nearest(rule, known)}; known: {', '.join(known)}"
            )
        return rule

    @field_validator("stop_at")
    @classmethod
    def _check_stop_at(cls, stop_at: float | None) -> float | None:
        if stop_at is not None and not 0.5 < stop_at < 1:
            raise ValueError("expected a probability above 0.5 and below 1, or null (off)")
        return stop_at

    @model_validator(mode="after")
    def _check_candidates_differ(self) -> "SelfConsistency":
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.candidates} candidates at temperature 0 would all be the same; set a "
                "temperature above 0, or 1 candidate"
            )
        return self

    def list_extensions(self) -> list[Any]:
        """Those of the demonstrations, and the rule of the vote or all that ``auto`` tries."""
        rules = {AUTO: AUTO_RULES, MBR: [f"mbr_{name}" for name in TEXT_SCORES]}
        names = rules.get(self.vote, [self.vote])
        return [*super().list_extensions(), *(VOTES[name] for name in names)]

    @property
    def stops_early(self) -> bool:
        """Whether a question may be decided before all of its candidates are drawn."""
        return self.stop_at is not None

    def seed_effect(self, model: PretrainedDecoder, task: Task, seeds: Sequence[int]) -> SeedEffect:
        """With ``vote: auto`` the seed may choose the rule, too."""
        return "adaptation" if self.vote == AUTO else super().seed_effect(model, task, seeds)

    def generation_config(self, stop: tuple[str, ...] = ()) -> GenerationConfig:
        """Many candidates, drawn at random."""
        return replace(
            super().generation_config(stop),
            candidates=self.candidates,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )

    def reasons_on(self, task: Task) -> bool:
        """Long answers are sampled without reasoning where the task has none."""
        return task.has_reasoning or task.scorer not in LONG_FORM

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The prompt of chain of thought, with the same demonstrations, and the vote.

        With ``vote: auto`` it votes by the first of the rules, until ``adapt`` has chosen one.
        """
        prompt = super().build_prompt(model, task, seed)
        return replace(prompt, vote=self._list_rules(task)[0], stop_at=self.stop_at)

    def _list_rules(self, task: Task) -> list[str]:
        """The rule of the vote on this task; with ``vote: auto`` those that it chooses among."""
        by_score = f"mbr_{task.scorer if task.scorer in TEXT_SCORES else 'token_f1'}"
        is_long = task.scorer in LONG_FORM
        if self.vote == AUTO:
            return [by_score, *AUTO_RULES] if is_long else list(AUTO_RULES)
        if self.vote == MBR or (is_long and "vote" not in self.model_fields_set):
            return [by_score]
        return [self.vote]

    def adapt(
        self, model: PretrainedDecoder, task: Task, run: RunOptions = DEFAULT_RUN
    ) -> MethodResult:
        """The decoder with the prompt; with ``vote: auto`` the details name the chosen rule.

        Raises:
            MethodNotApplicable: ``vote: auto`` without a development split, or no demonstration
                can be shown.
        """
        result = super().adapt(model, task, run)
        if self.vote != AUTO:
            return result
        adaptation = result.adaptation
        choice = self._choose_vote(adaptation, task, run)
        prompt = replace(adaptation.prompt, vote=choice.rule)
        chosen = {"vote": choice.rule, "vote_accuracy": dict(choice.accuracy)}
        return result.model_copy(
            update={
                "adaptation": replace(adaptation, prompt=prompt),
                "details": result.details | chosen,
            }
        )

    def _choose_vote(self, adaptation: Adaptation, task: Task, run: RunOptions) -> VoteChoice:
        """The rule that answers the development split best."""
        if not task.development:
            raise MethodNotApplicable("vote: auto needs a development split, the task has none")
        # all candidates: where a vote stops early, the rules agree
        asked = replace(adaptation, prompt=replace(adaptation.prompt, stop_at=None))
        evaluation = evaluate(
            asked,
            task,
            task.development,
            seed=run.seed,
            max_concurrent_sequences=run.max_concurrent_sequences,
            on_progress=run.on_step,
        )
        voted = [(row.prediction.candidates, row.example) for row in evaluation.predictions]
        return choose_vote_rule(
            (
                (candidates, score_candidates(candidates, example, task))
                for candidates, example in voted
            ),
            self._list_rules(task),
        )
