"""Zero-shot: an instruction, then the question (2005.14165, section 2)."""

from typing import ClassVar

from pydantic import Field

from adapt_jax.config import Strict
from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.decoding import Decoding
from adapt_jax.tasks.task import Task


class ZeroShot(Strict):
    """The task's instruction stands in front, and nothing else; decoding is greedy."""

    name: ClassVar[str] = "zero_shot"
    max_new_tokens: int = Field(128, gt=0)

    def adapt(self, model: PretrainedDecoder, task: Task, *, seed: int) -> Prompt:
        """The prompt of this rung."""
        return Prompt(
            template=task.template,
            instruction=task.instruction,
            parser=task.parser,
            decoding=Decoding(max_new_tokens=self.max_new_tokens, stop=task.template.stop),
        )
