"""LoRA: low-rank updates beside frozen kernels, merged into them in the end (2106.09685)."""

from typing import ClassVar, Literal, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from adapt_jax.decoders.decoder import Decoder, Linear
from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.tasks.task import Task
from adapt_jax.tuning.examples import Tuned, TuningMethod, own_copy, prepare, told
from adapt_jax.tuning.losses import TunedDecoder
from adapt_jax.tuning.optimizers import TrainingConfig
from adapt_jax.tuning.trainer import Run, train

Module = Literal["query", "key", "value", "output", "gate", "up", "down"]
ROOMS = {"gate": "ffn", "up": "ffn", "down": "ffn"}  # the others are in "attention"


class LoRA(nnx.Module):
    """scale · x A B, with A [I, R] kaiming-uniform, B [R, O] zero at first, both float32."""

    def __init__(self, linear: Linear, rank: int, scale: float, rngs: nnx.Rngs):
        size_in, size_out = linear.kernel.shape
        axis_in, axis_out = linear.kernel.get_metadata("axes")
        bound = size_in**-0.5  # kaiming-uniform with a = sqrt(5), as PEFT and the paper's code do
        first = jax.random.uniform(rngs.params(), (size_in, rank), minval=-bound, maxval=bound)
        self.a = nnx.Param(first, axes=(axis_in, None))
        self.b = nnx.Param(jnp.zeros((rank, size_out)), axes=(None, axis_out))
        self.scale = scale

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        wide = x.astype(jnp.float32)
        return (wide @ self.a[...] @ self.b[...] * self.scale).astype(x.dtype)

    def update(self) -> Float[Array, "I O"]:
        """What the kernel gains."""
        return self.a[...] @ self.b[...] * self.scale


class LowRank(TuningMethod):
    """Rank-``rank`` updates of the ``modules`` of every layer, scaled by alpha / rank."""

    name: ClassVar[str] = "lora"

    training: TrainingConfig = TrainingConfig(learning_rate=3e-3)
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)
    modules: list[Module] = Field(
        ["query", "key", "value", "output", "gate", "up", "down"], min_length=1
    )

    def adapt(
        self,
        model: PretrainedDecoder,
        task: Task,
        *,
        seed: int,
        **run: Unpack[Run],
    ) -> Tuned:
        """Trains the low-rank factors and merges them into the kernels of a copy of the decoder.

        Raises:
            CannotRun: the task has no training examples, or none that fit the context.
        """
        prompt = self.prompt(task)
        prepared = prepare(model, prompt, task.train).checked()
        decoder = own_copy(model.decoder, run.get("mesh"))
        attach(decoder, self.modules, self.rank, self.alpha, nnx.Rngs(seed))
        result = train(
            TunedDecoder(decoder),
            nnx.PathContains("lora"),
            prepared.examples,
            self.training,
            seed=seed,
            front=prepared.front,
            validation=self.validation(model, prompt, task),
            **run,
        )
        merge(decoder)
        return Tuned(
            prompt,
            PretrainedDecoder(decoder, model.tokenizer, model.path),
            result.trainable_parameters,
            result.seconds,
            result.losses,
            details=told(prepared, result, rank=self.rank, alpha=self.alpha, modules=self.modules),
        )


def attach(
    decoder: Decoder, modules: list[Module], rank: int, alpha: float, rngs: nnx.Rngs
) -> None:
    """Gives the chosen projections of every layer their factors; the output does not change yet."""
    for layer in decoder.layers:
        for name in modules:
            linear: Linear = getattr(getattr(layer, ROOMS.get(name, "attention")), name)
            linear.lora = LoRA(linear, rank, alpha / rank, rngs)


def merge(decoder: Decoder) -> None:
    """Adds every update to its kernel, in float32, and takes the factors off."""
    for _, module in nnx.iter_modules(decoder):
        if isinstance(module, Linear) and module.lora is not None:
            kernel = module.kernel[...]
            merged = kernel.astype(jnp.float32) + module.lora.update()
            module.kernel[...] = merged.astype(kernel.dtype)
            module.lora = None
