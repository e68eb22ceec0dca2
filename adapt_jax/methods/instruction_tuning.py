"""Instruction tuning: training on many kinds of instruction, each in several wordings.

It turns a decoder that only continues text into one that follows instructions, also of kinds that
it was not trained on: some categories are held out of the training and evaluated before and after.
It is enough where one decoder is to serve many tasks; for a single task fine-tuning on that task is
simpler. Paper: FLAN, 2109.01652, section 2. The mixtures are in ``mixtures.py``.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from flax import nnx
from pydantic import Field

from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.mixtures import MixtureOptions, build_mixture
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import TokenizedExamples, tokenize_examples
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.tuned_decoder import TunedDecoder

__all__ = ["InstructionTuning", "apply_templates"]

HELD_OUT_INSTRUCTION = "Answer the question."  # with which held-out categories are evaluated

# Instruction and question of each wording; the task's own template is one more.
WORDINGS = (
    ("", "Q: {question}\nA:"),
    ("Answer the question.", "Q: {question}\nA:"),
    ("Answer the questions.", "Question: {question}\nAnswer:"),
    ("Do what is asked.", "Instruction: {question}\nResponse:"),
    ("Read with care and answer.", "{question}\nAnswer:"),
    ("", "Problem: {question}\nSolution:"),
)


@METHODS.register("instruction_tuning")
class InstructionTuning(TuningMethod):
    """Trains every parameter on a mixture of categories; the task's training split is one of them.

    Attributes:
        mixture: a name in mixtures.MIXTURES, or a .jsonl or .json file in Alpaca's form
            (instruction, input, output, and optionally category).
        held_out: categories that are left out of the training and evaluated instead; null is the
            mixture's own choice.
        examples_per_category: training examples of each category.
        eval_size: examples of each held-out category that are evaluated.
    """

    # its training step is that of fine_tuning
    inspected_by_default: ClassVar[bool] = False

    training: TrainingConfig = TrainingConfig(learning_rate=1e-3)
    mixture: str = "arithmetic"
    held_out: list[str] | None = None
    examples_per_category: int = Field(200, gt=0, le=1_000_000)
    eval_size: int = Field(40, gt=0, le=1_000_000)

    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """Every parameter."""
        return nnx.Param

    def training_examples(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, seed: int, max_length: int
    ) -> TokenizedExamples:
        """The task's training split and the mixture, without any question that is evaluated.

        Raises:
            UserError: an unknown mixture or category, or every category is held out.
        """
        examples, held_out = self._build_mixture(seed)
        evaluated = {example.question for example in [*task.development, *task.test, *held_out]}
        examples = [example for example in examples if example.question not in evaluated]
        return apply_templates(model, prompt, [*task.train, *examples], seed, max_length=max_length)

    def validation_examples(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, max_length: int
    ) -> TokenizedExamples:
        """The development split, each example with its prompt prefix: training shares none."""
        return super().validation_examples(model, prompt, task, max_length).with_prefix()

    def held_out_task(self, task: Task, seed: int) -> Task | None:
        """The held-out categories as a task, asked in the template of the task itself."""
        _, held_out = self._build_mixture(seed)
        if not held_out:
            return None
        return Task(
            name="held-out categories",
            train=(),
            development=(),
            test=held_out,
            instruction=HELD_OUT_INSTRUCTION,
            template=task.template,
            parser="text",
        )

    def _build_mixture(self, seed: int) -> tuple[list[Example], list[Example]]:
        options = MixtureOptions(self.held_out, self.examples_per_category, self.eval_size, seed)
        return build_mixture(self.mixture, options)


def apply_templates(
    model: PretrainedDecoder,
    prompt: Prompt,
    examples: Sequence[Example],
    seed: int,
    *,
    max_length: int | None = None,
) -> TokenizedExamples:
    """Each example in a wording drawn for it; there is no prompt prefix that all share.

    Args:
        max_length: tokens of an example; by default the decoder's context length.
    """
    rng = random.Random(f"{seed}/wordings")
    own = (prompt.instruction, prompt.template.question)
    others: Sequence[tuple[str, str]] = WORDINGS
    if prompt.template.chat:  # a chat template already marks question and answer
        others = [(instruction, own[1]) for instruction, _ in WORDINGS]
    wordings = list(dict.fromkeys([own, *others]))

    # draw a wording for each example
    by_wording: dict[tuple[str, str], list[Example]] = {wording: [] for wording in wordings}
    for example in examples:
        by_wording[rng.choice(wordings)].append(example)

    # tokenize wording by wording
    tokenized: list[TrainingExample] = []
    too_long = without_answer = 0
    for (instruction, question), chosen in by_wording.items():
        template = replace(prompt.template, question=question)
        worded = replace(prompt, template=template, instruction=instruction)
        part = tokenize_examples(model, worded, chosen, max_length=max_length).with_prefix()
        tokenized += part.examples
        too_long += part.too_long
        without_answer += part.without_answer
    return TokenizedExamples((), tokenized, too_long, without_answer)
