"""Chain of thought: the demonstrations show their reasoning, so the decoder reasons before it
answers.

It is enough for questions that take a few steps, such as word problems, when the decoder is large
enough to reason in text at all. It costs more generated tokens than few-shot and no training.
Paper: 2201.11903, section 2.
"""

from typing import ClassVar

from pydantic import field_validator

from adapt_jax.methods.bootstrap import BootstrapOptions, Bootstrapped, bootstrap_reasoning
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.methods.registry import METHODS
from adapt_jax.methods.run_options import RunOptions
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.demonstration_options import DemonstrationOptions
from adapt_jax.tasks.task import Task

__all__ = ["ChainOfThought"]


@METHODS.register("chain_of_thought")
class ChainOfThought(FewShot):
    """Few-shot with the reasoning of each demonstration; decoding is greedy.

    Attributes:
        bootstrap: the decoder writes reasonings for training examples that have none, and those
            that reach the right answer are shown; see ``BootstrapOptions``.
    """

    shows_reasoning: ClassVar[bool] = True

    demonstrations: DemonstrationOptions = DemonstrationOptions(count=4)
    bootstrap: BootstrapOptions | None = None

    def prepare_task(self, model: PretrainedDecoder, task: Task, run: RunOptions) -> Bootstrapped:
        """The task with reasonings that the decoder wrote, if ``bootstrap`` is given."""
        return bootstrap_reasoning(model, task, self.bootstrap, run)

    @field_validator("answer_by")
    @classmethod
    def _check_answer_is_generated(cls, answer_by: str) -> str:
        if answer_by != "text":
            raise ValueError(
                f"{cls.name} generates its reasoning; `answer_by: likelihood` is for methods "
                "that generate nothing, zero_shot and few_shot"
            )
        return answer_by
