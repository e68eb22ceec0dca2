"""From a task's examples to tokens, and the copy of the decoder that a training changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.sharding import state_shardings
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, tokenize, tokenize_answer
from adapt_jax.tasks.example import Example
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.trainer import TrainingResult

__all__ = [
    "TokenizedExamples",
    "cast_params",
    "clone_decoder",
    "summarize",
    "tokenize_examples",
]


@dataclass(frozen=True)
class TokenizedExamples:
    """Training examples as tokens, and the tokens that are prepended to each of them.

    ``too_long`` and ``without_answer`` count the examples that were dropped; ``by_task`` counts
    those of each task where there are several.
    """

    prompt_prefix: tuple[int, ...]
    examples: list[TrainingExample]
    too_long: int
    without_answer: int
    by_task: Mapping[str, int] = field(default_factory=dict)

    def check_not_empty(self) -> None:
        """Raises MethodNotApplicable where no example is left."""
        if not self.examples:
            raise MethodNotApplicable(
                f"no training example can be used: {self.without_answer} have no answer, "
                f"{self.too_long} do not fit into the decoder's context"
            )

    def with_prefix(self) -> "TokenizedExamples":
        """A copy in which each example has the prompt prefix, instead of all sharing it."""
        length = len(self.prompt_prefix)
        examples = [
            replace(
                example,
                tokens=self.prompt_prefix + example.tokens,
                target_start=length + example.target_start,
            )
            for example in self.examples
        ]
        return replace(self, prompt_prefix=(), examples=examples)


def tokenize_examples(
    model: PretrainedDecoder,
    prompt: Prompt,
    examples: Iterable[Example],
    *,
    max_length: int | None = None,
) -> TokenizedExamples:
    """Examples as generation sees them: tokens of the prompt, of the question, then the target.

    The target is the answer (after its reasoning, if ``prompt.reasoning``) and one EOS. Examples
    without an answer, and those longer than ``max_length``, are dropped and counted.

    Args:
        max_length: tokens of an example, the prompt prefix included; by default the decoder's
            context length.

    Raises:
        MethodNotApplicable, UserError: as ``tokenize_answer``; training would see other tokens
            between question and answer than generation.
    """
    examples = list(examples)
    template = prompt.template
    answered = [example for example in examples if example.answer]
    questions = [template.format_example(example) for example in answered]
    prompt_prefix, question_tokens = tokenize(model, prompt, questions)
    max_length = model.config.context_length if max_length is None else max_length
    tokenized = []
    for example, question, tokens in zip(answered, questions, question_tokens, strict=True):
        target = _tokenize_target(model, prompt, example, question, [*prompt_prefix, *tokens])
        if len(prompt_prefix) + len(tokens) + len(target) <= max_length:
            tokenized.append(TrainingExample(example.id, (*tokens, *target), len(tokens)))
    return TokenizedExamples(
        prompt_prefix=tuple(prompt_prefix),
        examples=tokenized,
        too_long=len(answered) - len(tokenized),
        without_answer=len(examples) - len(answered),
    )


def _tokenize_target(
    model: PretrainedDecoder, prompt: Prompt, example: Example, question: str, context: list[int]
) -> list[int]:
    """Token ids of the answer that follow ``context``, with one EOS at the end."""
    reasoning = example.reasoning if prompt.reasoning else ""
    answer = prompt.template.format_answer(example.answer, reasoning)
    name = f"example {example.id!r:.100}"
    target = tokenize_answer(model, prompt, question, answer, context=context, name=name)
    eos_ids = model.config.eos_ids
    eos: Sequence[int] = eos_ids[:1]
    ends = [index for index, token in enumerate(target) if token in eos_ids]
    if prompt.template.chat and ends:  # a chat template ends the turn itself
        target, eos = target[: ends[0]], target[ends[0] : ends[0] + 1]
    return [*(token for token in target if token not in eos_ids), *eos]


def clone_decoder(decoder: Decoder, mesh: Mesh | None) -> Decoder:
    """A copy to change; it shares its arrays with the original until they are replaced.

    Args:
        mesh: where its arrays are placed; None leaves them where they are.
    """
    copy = nnx.clone(decoder)
    if mesh is not None:
        state = nnx.state(copy)
        nnx.update(copy, jax.device_put(state, state_shardings(state, mesh)))
    return copy


def cast_params(module: nnx.Module, selected: Any, dtypes: Sequence[Any] | Any) -> list[Any]:
    """Casts in place the parameters that an nnx filter selects.

    Args:
        dtypes: one for all, or a list as this function returned it.

    Returns:
        their dtypes before.
    """
    leaves, tree = jax.tree.flatten(nnx.state(module, selected))
    wanted = dtypes if isinstance(dtypes, list) else [dtypes] * len(leaves)
    cast = [leaf.astype(dtype) for leaf, dtype in zip(leaves, wanted, strict=True)]
    nnx.update(module, jax.tree.unflatten(tree, cast))
    return [leaf.dtype for leaf in leaves]


def summarize(examples: TokenizedExamples, result: TrainingResult) -> dict[str, Any]:
    """The report of a training, as plain JSON.

    ``best`` is there where it validated, ``examples_by_task`` where several tasks were trained on.
    """
    return {
        "examples": len(examples.examples),
        "dropped_too_long": examples.too_long,
        "dropped_without_answer": examples.without_answer,
        "padding_share": round(result.padding_share, 4),
        **({"examples_by_task": dict(examples.by_task)} if examples.by_task else {}),
        **({"best": result.best.to_dict()} if result.best is not None else {}),
    }
