"""Fine-tuning, the traditional form: the decoder's own parameters, on labelled examples."""

import re
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import jax.numpy as jnp

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import (
    TuningMethod,
    TuningResult,
    cast_params,
    clone_decoder,
    summarize,
    tokenize_examples,
)
from adapt_jax.training.trainer import RunOptions, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError

# Parts by name, as expressions that are searched in a parameter's path (layers.0.ffn.up.kernel).
PARTS = {
    "all": "",
    "embedding": r"^(per_layer_embeddings\.)?embedding$",
    "attention": r"\.attention\.",
    "ffn": r"\.(ffn|dense_with_moe\.experts)\.",
    "norm": r"(^|\.|_)norm\.",
    "output": r"^output\.",
}


class FineTuning(TuningMethod):
    """Trains ``all`` parameters, or those of chosen parts; the loss is on the answer only.

    ``train`` is a part or a list of them: one of embedding, attention, ffn, norm, output,
    ``layers.N``, or a regular expression that is searched in the parameters' paths.
    """

    name: ClassVar[str] = "fine_tuning"

    training: TrainingConfig = TrainingConfig(learning_rate=1e-3)
    train: str | list[str] = "all"

    def adapt(
        self,
        model: PretrainedDecoder,
        task: Task,
        *,
        seed: int,
        **run: Unpack[RunOptions],
    ) -> TuningResult:
        """Trains a copy of the decoder on the task's training examples.

        Raises:
            CannotRun: the task has no training examples, or none that fit the context.
            UserError: a part that this decoder does not have.
        """
        prompt = self.prompt(task)
        chosen = select(model.decoder, self.train)
        prepared = tokenize_examples(model, prompt, task.train).checked()
        decoder = clone_decoder(model.decoder, run.get("mesh"))
        kept = cast_params(decoder, chosen, jnp.float32)  # bfloat16 would swallow small updates
        result = train(
            TunedDecoder(decoder),
            chosen,
            prepared.examples,
            self.training,
            seed=seed,
            prompt_prefix=prepared.prompt_prefix,
            validation=self.validation(model, prompt, task),
            **run,
        )
        cast_params(decoder, chosen, kept)
        return TuningResult(
            prompt,
            PretrainedDecoder(decoder, model.tokenizer, model.path),
            result.trainable_parameters,
            result.seconds,
            result.losses,
            details=summarize(prepared, result, train=self.train),
        )


def select(decoder: Decoder, parts: str | list[str]) -> Callable[[Any, Any], bool]:
    """An nnx filter of the parameters in ``parts``, of the decoder alone or in a TunedDecoder.

    Raises:
        UserError: a part that selects nothing, or is not a regular expression.
    """
    paths = {".".join(map(str, path)) for path in get_parameters(decoder)}
    wanted: set[str] = set()
    for part in [parts] if isinstance(parts, str) else parts:
        layer = re.fullmatch(r"layers\.(\d+)", part)
        try:
            pattern = re.compile(rf"^layers\.{layer[1]}\." if layer else PARTS.get(part, part))
        except re.error as error:
            raise UserError(f"fine_tuning.train: {part!r} is no expression ({error})") from None
        found = {path for path in paths if pattern.search(path)}
        if not found:
            tied = " (its output is tied to the embedding)" if part == "output" else ""
            raise UserError(
                f"fine_tuning.train: {part!r} selects no parameter of this decoder{tied}; expected "
                f"one of {', '.join(PARTS)}, layers.N, or an expression that occurs in a path such "
                f"as {max(paths)}"
            )
        wanted |= found

    def chosen(path: Any, value: Any) -> bool:
        names = [str(part) for part in path]
        return ".".join(names[1:] if names[:1] == ["decoder"] else names) in wanted

    return chosen
