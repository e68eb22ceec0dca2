"""LoRA: low-rank updates beside frozen kernels, merged into them in the end (2106.09685)."""

from typing import Annotated, ClassVar, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.layers import Linear, matmul
from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import (
    TuningMethod,
    TuningResult,
    clone_decoder,
    summarize,
    tokenize_examples,
)
from adapt_jax.training.trainer import RunOptions, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError

Module = Literal["query", "key", "value", "output", "gate", "up", "down"]
ROOMS = {"gate": "ffn", "up": "ffn", "down": "ffn"}  # the others are in "attention"


class LoRA(nnx.Module):
    """scale · B A x, with A [R, I] kaiming-uniform, B [O, R] zero at first, both float32.

    The scale multiplies A x, which is R wide, and not the output.
    """

    def __init__(self, linear: Linear, rank: int, scale: float, rngs: nnx.Rngs):
        size_out, size_in = linear.kernel.shape
        axis_out, axis_in = linear.kernel.get_metadata("axes")
        bound = size_in**-0.5  # kaiming-uniform with a = sqrt(5), as PEFT and the paper's code do
        first = rngs.params.uniform((size_in, rank), minval=-bound, maxval=bound)
        self.a = nnx.Param(first.T, axes=(None, axis_in))
        self.b = nnx.Param(jnp.zeros((size_out, rank)), axes=(axis_out, None))
        self.scale = scale

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        thin = x.astype(jnp.float32) @ self.a[...].T * self.scale
        return matmul(thin, self.b[...]).astype(x.dtype)


class LoRAConfig(TuningMethod):
    """Rank-``rank`` updates of the ``modules`` of every layer, or of ``all`` its projections.

    They are scaled by alpha / rank; ``rank_stabilized``: by alpha / sqrt(rank) (2312.03732), so
    that a higher rank does not learn more slowly.
    """

    name: ClassVar[str] = "lora"

    training: TrainingConfig = TrainingConfig(learning_rate=3e-3)
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)
    rank_stabilized: bool = False
    modules: Literal["all"] | Annotated[list[Module], Field(min_length=1)] = "all"

    def adapt(
        self,
        model: PretrainedDecoder,
        task: Task,
        *,
        seed: int,
        **run: Unpack[RunOptions],
    ) -> TuningResult:
        """Trains the low-rank factors and merges them into the kernels of a copy of the decoder.

        Raises:
            CannotRun: the task has no training examples, or none that fit the context.
            UserError: a module that no layer of this decoder has.
        """
        prompt = self.prompt(task)
        prepared = tokenize_examples(model, prompt, task.train).checked()
        decoder = clone_decoder(model.decoder, run.get("mesh"))
        power = 0.5 if self.rank_stabilized else 1
        attach(decoder, self.modules, self.rank, self.alpha / self.rank**power, nnx.Rngs(seed))
        result = train(
            TunedDecoder(decoder),
            nnx.PathContains("lora"),
            prepared.examples,
            self.training,
            seed=seed,
            prompt_prefix=prepared.prompt_prefix,
            validation=self.validation(model, prompt, task),
            **run,
        )
        factors = detach(decoder, self.alpha)
        updates = LoRAWeights(factors, model.fingerprint, self.rank_stabilized)
        return TuningResult(
            prompt,
            updates.merge_into(PretrainedDecoder(decoder, model.tokenizer, model.path)),
            result.trainable_parameters,
            result.seconds,
            result.losses,
            lora_weights=updates,
            details=summarize(
                prepared,
                result,
                rank=self.rank,
                alpha=self.alpha,
                rank_stabilized=self.rank_stabilized,
                modules=self.modules,
            ),
        )


def attach(
    decoder: Decoder,
    modules: Literal["all"] | list[Module],
    rank: int,
    scale: float,
    rngs: nnx.Rngs,
) -> None:
    """Gives the chosen projections of every layer their factors; the output does not change yet.

    Raises:
        UserError: a module that no layer has. (The experts of a mixture are no projections.)
    """
    wanted = get_args(Module) if modules == "all" else modules
    found = set()
    for layer in decoder.layers:
        for name in wanted:
            linear = getattr(getattr(layer, ROOMS.get(name, "attention")), name, None)
            if isinstance(linear, Linear):
                linear.lora = LoRA(linear, rank, scale, rngs)
                found.add(name)
    if lacking := [name for name in wanted if name not in found and modules != "all"]:
        has = ", ".join(name for name in get_args(Module) if name in found)
        raise UserError(
            f"lora.modules: no layer of this decoder has {', '.join(lacking)}"
            + f" (found: {has})" * bool(found)
        )


def detach(decoder: Decoder, alpha: float) -> dict[ParameterPath, LoRAFactors]:
    """Takes the factors off; by the path of the kernel that they belong to."""
    factors: dict[ParameterPath, LoRAFactors] = {}
    for path, module in nnx.iter_modules(decoder):
        if isinstance(module, Linear) and module.lora is not None:
            a, b = (np.asarray(jax.device_get(one[...])) for one in (module.lora.a, module.lora.b))
            factors[*path, "kernel"] = LoRAFactors(a, b, alpha)
            module.lora = None
    return factors
