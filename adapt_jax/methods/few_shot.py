"""Few-shot: instruction and solved questions, answers only (2005.14165, section 2)."""

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from adapt_jax.methods.zero_shot import ZeroShot
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.demonstrations import select_demonstrations, within_context
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.task import Task


class FewShot(ZeroShot):
    """Up to ``demonstrations`` questions with their answers stand in front."""

    name: ClassVar[str] = "few_shot"
    reasoning: ClassVar[bool] = False
    demonstrations: int = Field(8, gt=0)

    def adapt(self, model: PretrainedDecoder, task: Task, *, seed: int) -> Prompt:
        """The prompt of this rung; the same seed chooses the same demonstrations.

        Raises:
            CannotRun: there is nothing to show, or nothing of it fits.
        """
        prompt = replace(super().adapt(model, task, seed=seed), reasoning=self.reasoning)
        shown = select_demonstrations(
            task,
            self.demonstrations,
            seed=seed,
            reasoning=self.reasoning,
            fits=within_context(model, prompt, task),
        )
        return replace(prompt, demonstrations=shown)
