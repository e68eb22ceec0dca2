"""Prompt tuning: a few learned embeddings are prepended to the question; the decoder is frozen.

The soft prompt is trained like a weight and takes the place of demonstrations: 20 embeddings are
often worth hundreds of prompt tokens, and the result is a file of a few kilobytes that any copy of
the decoder can use. It is enough where a good prompt would be, and the larger the decoder, the
closer it comes to fine-tuning. Paper: 2104.08691. ``soft_prompt_init`` says what it starts from.
"""

from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.methods.base import InitContext, TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.methods.soft_prompt_init import draw_members
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.distributed import fetch_array
from adapt_jax.utils.errors import UserError

__all__ = ["PromptTuning"]


@METHODS.register("prompt_tuning")
class PromptTuning(TuningMethod):
    """Trains ``length`` embeddings, prepended to the task's instruction and every question.

    The training default is AdamW at 1e-2: the paper's 0.3 belongs to Adafactor on T5.

    Attributes:
        length: embeddings of the soft prompt.
        init: what they start from: a name in soft_prompt_init.INITS, or the folder of an earlier
            adaptation or PEFT adapter.
        init_text: the text of ``init: text``.
        position: the side of BOS on which the soft prompt is.
        use_instruction: whether the task's instruction follows the soft prompt.
        ensemble: soft prompts that are trained together, on the same batches and each as if it
            were alone. They answer in one pass, and the majority of their answers counts
            (section 6 of the paper).
    """

    training: TrainingConfig = TrainingConfig(learning_rate=1e-2)
    length: int = Field(20, gt=0, le=100_000)
    init: str = "vocabulary"
    init_text: str = ""
    position: Literal["before_bos", "after_bos"] = "before_bos"
    use_instruction: bool = True
    ensemble: int = Field(1, gt=0, le=1000)

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The task's instruction; the soft prompt is added to it later.

        Raises:
            MethodNotApplicable: the task has no training examples.
            UserError: the soft prompt is as long as the context.
        """
        if self.length >= (context := model.config.context_length):
            raise UserError(
                f"prompt_tuning.length {self.length} leaves no room for a question: the decoder's "
                f"context is {context} tokens"
            )
        shown = task if self.use_instruction else replace(task, instruction="")
        prompt = super().build_prompt(model, shown, seed)
        return replace(prompt, vote="majority") if self.ensemble > 1 else prompt

    def add_modules(self, decoder: Decoder, rngs: nnx.Rngs) -> TunedDecoder:
        """Prepends a soft prompt, or one for each member of the ensemble."""
        members = (self.ensemble,) if self.ensemble > 1 else ()
        shape = (*members, self.length, decoder.config.input_dim)
        return TunedDecoder(decoder, SoftPrompt(jnp.zeros(shape)))

    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """The soft prompt alone."""
        return nnx.PathContains("soft_prompt")

    def initialize(self, tuned: TunedDecoder, context: InitContext) -> None:
        """Fills in the soft prompt; in a decoder without BOS it always comes first.

        Raises:
            UserError: an unknown ``init``, one with fewer rows than the length, or members of an
                ensemble that would start alike.
        """
        labels = [example.answer for example in context.task.train if example.answer]
        examples = context.examples
        rows = draw_members(self, context.model, examples.examples, context.seed, labels)
        has_bos = examples.prompt_prefix[:1] == (context.model.config.bos_id,)
        tuned.soft_prompt = SoftPrompt(
            jnp.asarray(rows), self.position == "before_bos" or not has_bos
        )

    def collect(self, tuned: TunedDecoder, model: PretrainedDecoder, prompt: Prompt) -> Adaptation:
        """The decoder as it was loaded, and the learned soft prompt."""
        assert tuned.soft_prompt is not None
        embeddings = jnp.asarray(fetch_array(tuned.soft_prompt.embeddings[...]))
        soft_prompt = SoftPrompt(embeddings, tuned.soft_prompt.before_bos)
        return Adaptation(self.name, prompt, model, soft_prompt)

    def describe_options(self) -> dict[str, Any]:
        """The options; the learning rate too, because soft prompts depend on it so much."""
        training = self.training.model_dump(include={"optimizer", "learning_rate"})
        return super().describe_options() | training
