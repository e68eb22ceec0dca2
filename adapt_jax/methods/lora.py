"""LoRA: the pretrained kernels stay frozen; small low-rank updates beside them are trained.

W x becomes W x + scale · B A x, with A [R, I] and B [O, R] of a small rank R. It trains a
hundredth of the parameters or fewer, comes close to fine-tuning, and its result is a file of a few
megabytes; afterwards the updates are merged into the kernels, so answering costs nothing extra.
It is enough for most tasks with hundreds of examples or more. Paper: 2106.09685, section 4.1.

DoRA also trains the magnitude m of each row of the kernel, so that LoRA learns its direction:
m / |W + scale · B A| · (W + scale · B A). At low ranks it comes closer to fine-tuning; a step is
slower, the merged result is not. Paper: 2402.09353, section 4.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.layers import Linear, matmul
from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.decoders.moe import MoE
from adapt_jax.decoders.products import multiply_grouped
from adapt_jax.decoders.transformer_layer import TransformerLayer
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.distributed import fetch_array
from adapt_jax.utils.errors import UserError

__all__ = ["LoRA", "LoRAConfig", "attach_lora", "detach_lora"]

Module = Literal[
    "query", "key", "value", "output", "gate", "up", "down",
    "query_down", "query_up", "kv_down", "kv_up",
    "output_gate", "input", "strength", "decay", "time_step", "time_step_down",
]  # fmt: skip
ExpertModule = Literal["expert_gate", "expert_up", "expert_down"]
AnyModule = Literal[Module, ExpertModule]
FFN_MODULES = ("gate", "up", "down")  # the others belong to attention, or to what is in its place


class LoRA(nnx.Module):
    """scale · B A x, with A [R, I] kaiming-uniform and B [O, R] zero at first, both float32.

    The scale multiplies A x, which is only R wide, and not the output. With DoRA there is also a
    magnitude [O], at first the norm of each row of the kernel.
    """

    def __init__(
        self, linear: Linear, rank: int, scale: float, rngs: nnx.Rngs, *, dora: bool = False
    ):
        size_out, size_in = linear.kernel.shape
        axis_out, axis_in = linear.kernel.get_metadata("axes")
        bound = size_in**-0.5  # kaiming-uniform with a = sqrt(5), as PEFT and the paper's code do
        a_transposed = rngs.params.uniform((size_in, rank), minval=-bound, maxval=bound)
        self.a = nnx.Param(a_transposed.T, axes=(None, axis_in))
        self.b = nnx.Param(jnp.zeros((size_out, rank)), axes=(axis_out, None))
        self.scale = scale
        norms = _compute_row_norms(linear.kernel[...]) if dora else None
        self.magnitude = None if norms is None else nnx.Param(norms, axes=(axis_out,))
        self.fixed_row_scale: Any = nnx.data(None)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        low_rank = x.astype(jnp.float32) @ self.a[...].T * self.scale
        return matmul(low_rank, self.b[...]).astype(x.dtype)

    def scale_rows(self, y: Float[Array, "*B O"], kernel: Float[Array, "O I"]) -> Array:
        """DoRA: the outputs y of the updated kernel, as those of the rescaled one.

        Args:
            kernel: without the update.
        """
        return (y * self._compute_row_scale(kernel)).astype(y.dtype)

    def update_kernel(self, kernel: Float[Array, "O I"]) -> Float[Array, "O I"]:
        """The kernel plus scale · B A; with DoRA its rows are rescaled."""
        updated = kernel + (self.b[...] @ self.a[...] * self.scale).astype(kernel.dtype)
        if self.magnitude is None:
            return updated
        return (updated * self._compute_row_scale(kernel)[:, None]).astype(kernel.dtype)

    def fix_row_scale(self, kernel: Float[Array, "O I"]) -> None:
        """Computes DoRA's scale once, for a decoder that answers and is trained no further."""
        if self.magnitude is not None:
            axes = self.magnitude.get_metadata("axes")
            self.fixed_row_scale = nnx.Param(self._compute_row_scale(kernel), axes=axes)

    def _compute_row_scale(self, kernel: Float[Array, "O I"]) -> Float[Array, " O"]:
        """magnitude / |w + scale · b A| of each row w, where b is the row of B.

        The norm is |w|^2 + 2 scale b · A w + scale^2 b · A A^T b under a root, so that B A is not
        computed. It gets no gradient (2402.09353, section 4.3).
        """
        if self.fixed_row_scale is not None:
            return jnp.asarray(self.fixed_row_scale[...])
        assert self.magnitude is not None
        kernel, a, b = jax.lax.stop_gradient((kernel, self.a[...], self.b[...]))
        squares = jnp.square(kernel.astype(jnp.float32)).sum(axis=-1)
        projected = jnp.einsum(
            "oi,ri->or", kernel, a.astype(kernel.dtype),
            precision="highest", preferred_element_type=jnp.float32,
        )  # fmt: skip
        products = jnp.matmul(b, jnp.matmul(a, a.T, precision="highest"), precision="highest")
        squares += self.scale * (b * (2 * projected + self.scale * products)).sum(axis=-1)
        # a row of zeros has no direction, and stays zero
        is_zero = squares <= 0
        norms = jnp.sqrt(jnp.where(is_zero, 1.0, squares))
        return jnp.where(is_zero, 0.0, self.magnitude[...] / norms)


class ExpertLoRA(nnx.Module):
    """LoRA of each expert of one kernel [E, I, O], with A [E, R, I] and B [E, O, R]."""

    def __init__(self, kernels: nnx.Param, rank: int, scale: float, rngs: nnx.Rngs):
        count, size_in, size_out = kernels.shape
        _, axis_in, axis_out = kernels.get_metadata("axes")
        bound = size_in**-0.5
        a = rngs.params.uniform((count, rank, size_in), minval=-bound, maxval=bound)
        self.a = nnx.Param(a, axes=(None, None, axis_in))
        self.b = nnx.Param(jnp.zeros((count, size_out, rank)), axes=(None, axis_out, None))
        self.scale = scale

    def __call__(self, x: Float[Array, "S I"], sizes: Int[Array, " E"]) -> Float[Array, "S O"]:
        """The updates of tokens that are sorted by expert.

        Args:
            sizes: how many of the tokens each expert has.
        """
        a, b = self.a[...].swapaxes(1, 2), self.b[...].swapaxes(1, 2)
        low_rank = multiply_grouped(x.astype(jnp.float32), a, sizes) * self.scale
        return multiply_grouped(low_rank, b, sizes).astype(x.dtype)


class ExpertLoRAs(nnx.Module):
    """The factors of the experts of one layer; None where a kernel has none."""

    def __init__(self) -> None:
        self.gate: Any = nnx.data(None)
        self.up: Any = nnx.data(None)
        self.down: Any = nnx.data(None)


@jax.jit
def _compute_row_norms(kernel: Float[Array, "O I"]) -> Float[Array, " O"]:
    return jnp.linalg.norm(kernel.astype(jnp.float32), axis=1)


@METHODS.register("lora")
class LoRAConfig(TuningMethod):
    """Trains updates of rank ``rank`` for the ``modules`` of every layer.

    Attributes:
        alpha: the updates are scaled by alpha / rank.
        rank_stabilized: scales by alpha / sqrt(rank) instead, so that a higher rank does not learn
            more slowly (rsLoRA: 2312.03732).
        dora: trains a magnitude for each row of a kernel besides (DoRA: 2402.09353).
        modules: "all" projections of the layers, or a list of them. Shared experts count as
            feed-forward layers: gate, up, down. Experts that tokens are routed to are trained only
            where they are named: expert_gate, expert_up, expert_down.
    """

    training: TrainingConfig = TrainingConfig(learning_rate=3e-3)
    rank: int = Field(8, gt=0, le=65_536)
    alpha: float = Field(16.0, gt=0, le=1_000_000)
    rank_stabilized: bool = False
    dora: bool = False
    modules: Literal["all"] | Annotated[list[AnyModule], Field(min_length=1)] = "all"

    @model_validator(mode="after")
    def _check_experts(self) -> "LoRAConfig":
        named = () if self.modules == "all" else self.modules
        experts = [name for name in named if name in get_args(ExpertModule)]
        if self.dora and experts:
            raise ValueError(
                f"dora trains no experts, as in PEFT: leave out {', '.join(experts)}, or dora"
            )
        return self

    def add_modules(self, decoder: Decoder, rngs: nnx.Rngs) -> TunedDecoder:
        """Gives the chosen projections their factors.

        Raises:
            UserError: a module that no layer of this decoder has.
        """
        scale = self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)
        attach_lora(decoder, self.modules, self.rank, scale, rngs, dora=self.dora)
        return TunedDecoder(decoder)

    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """The factors, and DoRA's magnitudes."""
        return nnx.PathContains("lora")

    def prepare_to_answer(self, decoder: Decoder) -> None:
        """The norms of DoRA, which change with every step, are computed once."""
        for _, linear in _iterate_adapted(decoder):
            linear.lora.fix_row_scale(linear.kernel[...])

    def collect(self, tuned: TunedDecoder, model: PretrainedDecoder, prompt: Prompt) -> Adaptation:
        """The factors are saved; the decoder that answers has them merged into its kernels."""
        factors = detach_lora(tuned.decoder, self.alpha)
        weights = LoRAWeights(factors, model.fingerprint, self.rank_stabilized)
        frozen = replace(model, decoder=tuned.decoder)
        merged = weights.merge_into(frozen)
        return Adaptation(self.name, prompt, merged, lora_weights=weights)

    def merged_paths(self, trained: Collection[ParameterPath]) -> Collection[ParameterPath]:
        """The kernels with factors: PATH.kernel for PATH.lora.a, PATH.up for PATH.lora.up.a."""
        found = set()
        for path in trained:
            place = path.index("lora")
            found.add((*path[:place], *(path[place + 1 : -1] or ("kernel",))))
        return found


def attach_lora(
    decoder: Decoder,
    modules: Literal["all"] | Sequence[AnyModule],
    rank: int,
    scale: float,
    rngs: nnx.Rngs,
    *,
    dora: bool = False,
) -> None:
    """Gives the chosen projections of every layer their factors; the output does not change yet.

    Raises:
        UserError: a module that no layer has.
    """
    wanted = get_args(Module) if modules == "all" else modules
    found = set()
    for layer in decoder.layers:
        for name in wanted:
            if name in get_args(ExpertModule):
                if _attach_to_experts(layer, name, rank, scale, rngs):
                    found.add(name)
                continue
            # a shared expert is a feed-forward layer that every token passes
            ffn = (layer.ffn, getattr(layer.ffn, "shared", None))
            blocks = ffn if name in FFN_MODULES else (layer.attention, layer.mixer)
            for linear in (getattr(block, name, None) for block in blocks):
                if isinstance(linear, Linear):
                    linear.lora = LoRA(linear, rank, scale, rngs, dora=dora)
                    found.add(name)
    if lacking := [name for name in wanted if name not in found and modules != "all"]:
        has = ", ".join(name for name in get_args(AnyModule) if name in found)
        raise UserError(
            f"lora.modules: no layer of this decoder has {', '.join(lacking)}"
            + f" (found: {has})" * bool(found)
        )


def _attach_to_experts(
    layer: TransformerLayer, name: str, rank: int, scale: float, rngs: nnx.Rngs
) -> bool:
    """Gives one kernel of a layer's experts its factors; False where the layer has no experts."""
    experts = layer.ffn if layer.dense_with_moe is None else layer.dense_with_moe.experts
    if not isinstance(experts, MoE):
        return False
    kernel = name.removeprefix("expert_")
    if getattr(experts, kernel) is None:  # experts without gates
        return False
    if experts.lora is None:
        experts.lora = ExpertLoRAs()
    setattr(experts.lora, kernel, ExpertLoRA(getattr(experts, kernel), rank, scale, rngs))
    return True


def detach_lora(decoder: Decoder, alpha: float) -> dict[ParameterPath, LoRAFactors]:
    """Takes the factors out of the decoder; by the path of the kernel that they belong to."""
    factors: dict[ParameterPath, LoRAFactors] = {}
    for path, linear in _iterate_adapted(decoder):
        lora = linear.lora
        a, b = (fetch_array(one[...]) for one in (lora.a, lora.b))
        magnitude = None if lora.magnitude is None else fetch_array(lora.magnitude[...])
        factors[*path, "kernel"] = LoRAFactors(a, b, alpha, magnitude)
        linear.lora = None
    for path, module in nnx.iter_modules(decoder):
        if isinstance(module, MoE) and module.lora is not None:
            for name in FFN_MODULES:
                if (lora := getattr(module.lora, name)) is not None:
                    a, b = (fetch_array(one[...]) for one in (lora.a, lora.b))
                    factors[*path, name] = LoRAFactors(a, b, alpha)
            module.lora = None
    return factors


def _iterate_adapted(decoder: Decoder) -> Iterator[tuple[ParameterPath, Linear]]:
    """The projections that have factors, and their paths."""
    for path, module in nnx.iter_modules(decoder):
        if isinstance(module, Linear) and module.lora is not None:
            yield path, module
