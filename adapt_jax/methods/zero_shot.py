"""Zero-shot: the task's instruction, then the question; nothing is shown and nothing is trained.

It is enough where the decoder was instruction-tuned on tasks like yours, or where the answer is a
choice among a few. It costs the fewest tokens, so it is the first rung of the ladder and what
every other rung has to beat. Paper: GPT-3, 2005.14165, section 2.
"""

from typing import Literal

from pydantic import Field, model_validator

from adapt_jax.methods.base import PromptingMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.multiple_choice import CONTENT_FREE, MultipleChoiceConfig
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.tasks.task import Task

__all__ = ["ZeroShot"]


@METHODS.register("zero_shot")
class ZeroShot(PromptingMethod):
    """The task's instruction is prepended to the question; decoding is greedy.

    Attributes:
        answer_by: "text" generates the answer. "likelihood" generates nothing: it takes the
            likeliest of the question's choices.
        length_normalised: with "likelihood", compares log-probabilities per token.
        calibrated: with "likelihood", divides by the likelihood after questions without content
            (2102.09690).
        content_free: the questions without content. The empty one alone is the domain-conditional
            PMI of 2104.08315, whose premise is then the template without a question.
    """

    answer_by: Literal["text", "likelihood"] = "text"
    length_normalised: bool = False
    calibrated: bool = False
    content_free: list[str] = Field(list(CONTENT_FREE), min_length=1, max_length=100)

    @model_validator(mode="after")
    def _check_likelihood_options(self) -> "ZeroShot":
        if self.answer_by == "text" and (self.length_normalised or self.calibrated):
            raise ValueError("length_normalised and calibrated need `answer_by: likelihood`")
        if self.content_free != list(CONTENT_FREE) and not self.calibrated:
            raise ValueError("content_free needs `calibrated: true`")
        return self

    def answer_limit(self) -> int | None:
        """``max_new_tokens``; None where an answer is chosen by its likelihood."""
        return self.max_new_tokens if self.answer_by == "text" else None

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The instruction and the question.

        Raises:
            MethodNotApplicable: answers are chosen by likelihood, and the task has no choices.
        """
        multiple_choice = None
        if self.answer_by == "likelihood":
            multiple_choice = MultipleChoiceConfig.of(
                task, self.length_normalised, self.calibrated, self.content_free
            )
            if multiple_choice is None:
                raise MethodNotApplicable(
                    "answer_by: likelihood needs two choices or more for every question (`choices` "
                    "or `fields.choices` of the task)"
                )
        return Prompt(
            template=task.template,
            instruction=task.instruction,
            parser=task.parser,
            generation_config=self.generation_config(task.template.stop),
            multiple_choice=multiple_choice,
        )
