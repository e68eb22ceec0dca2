"""Few-shot: solved questions are shown before the question, with their answers alone.

It teaches the form of the answer and what the labels mean, without any training. It is enough for
classification and for short facts that the decoder knows; it does not help where the answer takes
several steps (see chain_of_thought). Paper: GPT-3, 2005.14165, section 2.
"""

from dataclasses import replace
from typing import Any, ClassVar

from adapt_jax.methods.registry import METHODS
from adapt_jax.methods.zero_shot import ZeroShot
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.demonstration_options import NEAREST, DemonstrationOptions
from adapt_jax.prompting.demonstration_selectors import SELECTORS
from adapt_jax.prompting.demonstrations import add_demonstrations
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.prompting.similarity import SIMILARITIES
from adapt_jax.tasks.task import Task

__all__ = ["FewShot"]


@METHODS.register("few_shot")
class FewShot(ZeroShot):
    """Solved questions of the training split are prepended.

    Attributes:
        shows_reasoning: whether the demonstrations show their reasoning.
        demonstrations: how many, or how they are chosen; see ``DemonstrationOptions``.
    """

    shows_reasoning: ClassVar[bool] = False
    demonstrations: DemonstrationOptions = DemonstrationOptions(count=8)

    def list_extensions(self) -> list[Any]:
        """The selector of the demonstrations, and the similarity that it may ask for."""
        options = self.demonstrations
        chosen = [] if options.select == NEAREST else [SELECTORS[options.select]]
        return [*super().list_extensions(), *chosen, SIMILARITIES[options.similarity]]

    def reasons_on(self, task: Task) -> bool:
        """Whether the demonstrations of this task show their reasoning."""
        return self.shows_reasoning

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The instruction, the demonstrations and the question.

        Raises:
            MethodNotApplicable: there is nothing to show, or not one demonstration fits.
        """
        prompt = super().build_prompt(model, task, seed)
        prompt = replace(prompt, reasoning=self.reasons_on(task))
        return add_demonstrations(model, prompt, task, self.demonstrations, seed)

    def draw_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """A prompt with as many demonstrations, drawn at random and in random order by the seed."""
        left_out: dict[str, Any] = {"ids": [], "examples": [], "diversity": None}
        drawn = self.demonstrations.model_copy(update={"select": "random", **left_out})
        return self.model_copy(update={"demonstrations": drawn}).build_prompt(model, task, seed)
