"""Frozen weights in int8: a quarter of float32, each output of a kernel with a scale of its own.

Symmetric, rounded to the nearest of 255 steps of the output's largest weight / 127; activations
stay as they are. What a run holds so stands where the arrays stood, and the decoder does not know.

Axes: E experts, I inputs, O outputs, V vocabulary, D embedding.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.utils.errors import UserError

MOST = 127


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8:
    """An array as ``whole`` times ``scale``, which has one entry for each output.

    It answers what the decoder asks of an array: rows of it, or all of it in some dtype.
    """

    whole: Int[Array, "O I"] | Int[Array, "E I O"] | Int[Array, "V D"]
    scale: Float[Array, "O 1"] | Float[Array, "E 1 O"] | Float[Array, "V 1"]
    dtype: Any = field(metadata={"static": True})

    def __getitem__(self, index: Any) -> Any:
        if index is Ellipsis:
            return self
        return self.whole[index].astype(self.dtype) * self.scale[index].astype(self.dtype)

    def astype(self, dtype: Any) -> Any:
        """All of it as an array."""
        return self.whole.astype(dtype) * self.scale.astype(dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8Kernel(Int8):
    """A kernel [O, I] of a Linear; its product is all that is asked of it."""

    def astype(self, dtype: Any) -> "Int8Kernel":
        """Itself: the product takes it as it is, in the dtype of what it is multiplied with."""
        return self

    def product(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """W x."""
        return _product(x, self.whole, self.scale[:, 0])


@jax.custom_vjp
def _product(x: Array, whole: Array, scale: Array) -> Array:
    x, kernel = _floats(x, whole)
    return jnp.einsum("...i,oi->...o", x, kernel) * scale.astype(x.dtype)


def _forward(x: Array, whole: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, whole, scale), (whole, scale)


def _backward(kept: tuple[Array, Array], pull: Array) -> tuple[Array, None, None]:
    """Of x alone."""
    whole, scale = kept
    pull, kernel = _floats(pull * scale.astype(pull.dtype), whole)
    return pull @ kernel, None, None


def _floats(x: Array, whole: Array) -> tuple[Array, Array]:
    """A kernel in the dtype of ``x``, made when ``x`` is there and not kept for the next product.

    Without the barrier a compiler makes those of all layers at once, and holds them all.
    """
    x, whole = jax.lax.optimization_barrier((x, whole))
    return x, whole.astype(x.dtype)


_product.defvjp(_forward, _backward)


def quantized(frozen: nnx.State, trained: nnx.State) -> nnx.State:
    """Frozen weights with kernels, embedding and experts in int8; norms, biases and so on stay.

    Raises:
        UserError: weights of the decoder itself are trained.
    """
    paths = [path for path, _ in nnx.to_flat_state(trained)]
    if any(path[0] == "decoder" and "lora" not in path for path in paths):
        raise UserError(
            "training.frozen_dtype: int8 is for what prompt tuning and LoRA leave as it is, here "
            "the decoder's own weights are trained; expected kept or bfloat16"
        )

    def hold(path: Any, leaf: Array) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        if name.endswith(".kernel"):
            return Int8Kernel(*_rounded(leaf), leaf.dtype)
        held = name == "decoder.embedding" or leaf.ndim == 3
        return Int8(*_rounded(leaf), leaf.dtype) if held else leaf

    return jax.tree_util.tree_map_with_path(hold, frozen)


def _rounded(leaf: Array) -> tuple[Array, Array]:
    """Whole numbers, and the scale that all along the second axis share, float32."""
    wide = leaf.astype(jnp.float32)
    largest = jnp.abs(wide).max(axis=1, keepdims=True)
    scale = jnp.where(largest > 0, largest / MOST, 1.0)
    return jnp.round(wide / scale).astype(jnp.int8), scale
