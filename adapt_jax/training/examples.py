"""What all tuning methods share: from a task's examples to tokens, and what tuning yields."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from pydantic import Field

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.sharding import state_shardings
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.lora_factors import LoRAWeights
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, tokenize
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.trainer import TrainingResult
from adapt_jax.training.validation import Validation
from adapt_jax.utils.config import Strict
from adapt_jax.utils.errors import UserError


@dataclass(frozen=True)
class TuningResult:
    """What a tuning method yields.

    ``model`` is the very object that was given where its weights stayed as they were, and a new
    one with the tuned weights otherwise (``lora_weights`` is what was merged into them, where that
    is all). ``losses`` are nats per target token of every step;
    ``details`` fit into JSON. ``unseen`` is a task of kinds that the training left out, for those
    methods that leave kinds out.
    """

    prompt: Prompt
    model: PretrainedDecoder
    trainable_parameters: int
    train_seconds: float
    losses: list[float]
    soft_prompt: SoftPrompt | None = None
    lora_weights: LoRAWeights | None = None
    unseen: Task | None = None
    details: dict[str, Any] = field(default_factory=dict)


class TuningMethod(Strict):
    """The options that every tuning method has.

    ``reasoning`` trains on reasoning and answer where the data holds reasoning, otherwise on the
    answer alone; ``max_new_tokens`` bounds what the tuned decoder writes for a question.
    """

    training: TrainingConfig = TrainingConfig()
    reasoning: bool = True
    max_new_tokens: int = Field(128, gt=0)

    def prompt(self, task: Task) -> Prompt:
        """What stands in front of the question, as in zero-shot: the task's instruction.

        Raises:
            CannotRun: when the task has no training examples.
        """
        if not task.train:
            raise MethodNotApplicable("the task has no training split")
        return Prompt(
            template=task.template,
            instruction=task.instruction,
            reasoning=self.reasoning and task.has_reasoning,
            parser=task.parser,
            generation_config=GenerationConfig(
                max_new_tokens=self.max_new_tokens, stop=task.template.stop
            ),
        )

    def validation(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, *, room: int | None = None
    ) -> Validation | None:
        """The task's development split as training sees it, where the training validates.

        Raises:
            CannotRun: when the task has no development split that can be used.
        """
        if not self.training.validate_every:
            return None
        if not task.development:
            raise MethodNotApplicable(
                "training.validate_every needs a development split, the task has none"
            )
        prepared = tokenize_examples(model, prompt, task.development, room=room).checked()
        return Validation(prepared.examples, prompt)


@dataclass(frozen=True)
class TokenizedExamples:
    """Tokenized examples and the tokens that stand in front of all of them.

    ``too_long`` and ``without_answer`` count the examples that were dropped.
    """

    prompt_prefix: tuple[int, ...]
    examples: list[TrainingExample]
    too_long: int
    without_answer: int

    def checked(self) -> "TokenizedExamples":
        """Itself, when there is anything to train on.

        Raises:
            CannotRun: when no example is left.
        """
        if not self.examples:
            raise MethodNotApplicable(
                f"no training example can be used: {self.without_answer} have no answer, "
                f"{self.too_long} do not fit into the decoder's context"
            )
        return self

    def with_prefix(self) -> list[TrainingExample]:
        """The examples with the front in each of them."""
        return [
            replace(
                example,
                tokens=self.prompt_prefix + example.tokens,
                target_start=len(self.prompt_prefix) + example.target_start,
            )
            for example in self.examples
        ]


def tokenize_examples(
    model: PretrainedDecoder,
    prompt: Prompt,
    examples: Iterable[Example],
    *,
    room: int | None = None,
) -> TokenizedExamples:
    """Examples as generation will see them: the prompt's tokens, the question's, then the target.

    The target is the response and EOS, exactly once. Reasoning is in it if ``prompt.reasoning``.
    Examples without an answer, and those longer than ``room``, are dropped and counted.

    Args:
        room: in tokens, the prompt's included; the decoder's context length when not given.

    Raises:
        UserError: when the tokenizer merges across the border between question and answer, so that
            training would see other tokens there than generation.
    """
    examples = list(examples)
    template, config = prompt.template, model.config
    answered = [example for example in examples if example.answer]
    asked = [template.format_question(example.question, example.choices) for example in answered]
    prompt_prefix, questions = tokenize(model, prompt, asked)
    room = config.context_length if room is None else room
    prepared = []
    for example, ask, question in zip(answered, asked, questions, strict=True):
        response = template.format_answer(
            example.answer, example.reasoning if prompt.reasoning else ""
        )
        joint = prompt.encode(model, prompt.render_with_answer(model, ask, response))
        given = [*prompt_prefix, *question]
        if joint[: len(given)] != given:
            raise UserError(
                f"example {example.id!r}: the tokenizer merges the end of the question "
                f"{ask[-8:]!r} with the beginning of the answer {response[:8]!r}; a template's "
                "question should end, and its answer begin, where a token does"
            )
        target = joint[len(given) :]
        ends = [at for at, token in enumerate(target) if token in config.eos_ids]
        eos: Sequence[int] = config.eos_ids[:1]
        if prompt.template.chat and ends:  # the turn's own end is the EOS
            target, eos = target[: ends[0]], target[ends[0] : ends[0] + 1]
        target = [token for token in target if token not in config.eos_ids]
        tokens = (*question, *target, *eos)
        if len(prompt_prefix) + len(tokens) <= room:
            prepared.append(TrainingExample(example.id, tokens, len(question)))
    return TokenizedExamples(
        tuple(prompt_prefix), prepared, len(answered) - len(prepared), len(examples) - len(answered)
    )


def clone_decoder(decoder: Decoder, mesh: Mesh | None) -> Decoder:
    """A decoder to change: the one given keeps its weights. On the mesh, where there is one."""
    copy = nnx.clone(decoder)
    if mesh is not None:
        state = nnx.state(copy)
        nnx.update(copy, jax.device_put(state, state_shardings(state, mesh)))
    return copy


def cast_params(decoder: Decoder, chosen: Any, dtypes: Sequence[Any] | Any) -> list[Any]:
    """Casts the parameters that the filter ``chosen`` selects; returns what they were.

    Args:
        dtypes: one for all, or a list as it was returned.
    """
    state = nnx.state(decoder, chosen)
    leaves, tree = jax.tree.flatten(state)
    wanted = dtypes if isinstance(dtypes, list) else [dtypes] * len(leaves)
    cast = [leaf.astype(dtype) for leaf, dtype in zip(leaves, wanted, strict=True)]
    nnx.update(decoder, jax.tree.unflatten(tree, cast))
    return [leaf.dtype for leaf in leaves]


def summarize(prepared: TokenizedExamples, result: TrainingResult, **more: Any) -> dict[str, Any]:
    """What a tuning method remembers of its run, for ``TuningResult.details``."""
    return {
        "examples": len(prepared.examples),
        "dropped_too_long": prepared.too_long,
        "dropped_without_answer": prepared.without_answer,
        "padding_share": round(result.padding_share, 4),
        **({"best": result.best.to_dict()} if result.best is not None else {}),
        **more,
    }
