"""Few-shot: solved questions are shown before the question, with their answers alone.

It teaches the form of the answer and what the labels mean, without any training. It is enough for
classification and for short facts that the decoder knows; it does not help where the answer takes
several steps (see chain_of_thought). Paper: GPT-3, 2005.14165, section 2.
"""

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from adapt_jax.methods.registry import METHODS
from adapt_jax.methods.zero_shot import ZeroShot
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.demonstrations import select_demonstrations, within_context
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.task import Task

__all__ = ["FewShot"]


@METHODS.register("few_shot")
class FewShot(ZeroShot):
    """Up to ``demonstrations`` solved questions of the training split are prepended.

    Attributes:
        shows_reasoning: whether the demonstrations show their reasoning.
        demonstrations: the most that are shown; fewer where the context holds no more.
    """

    shows_reasoning: ClassVar[bool] = False
    demonstrations: int = Field(8, gt=0, le=10_000)

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The instruction, the demonstrations and the question.

        Raises:
            MethodNotApplicable: there is nothing to show, or not one demonstration fits.
        """
        prompt = super().build_prompt(model, task, seed)
        prompt = replace(prompt, reasoning=self.shows_reasoning)
        demonstrations = select_demonstrations(
            task,
            self.demonstrations,
            seed=seed,
            reasoning=self.shows_reasoning,
            fits=within_context(model, prompt, task),
        )
        return replace(prompt, demonstrations=demonstrations)
