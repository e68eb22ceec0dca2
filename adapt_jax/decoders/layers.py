"""What layers are made of: projections, norms, the feed-forward part.

Axes: B rows, T tokens, D embedding, F feed-forward, I and O what goes into a projection and out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig


class Linear(nnx.Module):
    """y = W x (+ b) (+ scale · B A x when LoRA factors were attached; 2106.09685, section 4.1).

    W is [out, in], as files have it, so nothing is turned on the way in or out; and products of
    few rows, as in decoding, read it faster so. ``axes`` are those of what goes in and comes out.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        size_in: int,
        size_out: int,
        axes: tuple[str | None, str | None],
        bias: bool,
    ):
        drawn = rngs.params.normal((size_in, size_out)).T  # as when the embedded decoder was
        kernel = drawn * size_in**-0.5
        self.kernel = nnx.Param(kernel, axes=axes[::-1])
        self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[1:]) if bias else None
        self.lora: Any = nnx.data(None)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        y = matmul(x, self.kernel[...].astype(x.dtype))
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y if self.lora is None else y + self.lora(x)


def matmul(x: Float[Array, "*B I"], kernel: Float[Array, "O I"]) -> Float[Array, "*B O"]:
    """W x. The gradient of W is a product over rows, whose left factor XLA turns on a CPU: here
    the narrower of the two. JAX takes that of y. Where W is frozen nobody asks for its gradient:
    none is compiled.
    """
    return _matmul(x, kernel)


@jax.custom_vjp
def _matmul(x: Array, kernel: Array) -> Array:
    return jnp.einsum("...i,oi->...o", x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], y: Array) -> tuple[Array, Array]:
    x, kernel = kept
    if x.shape[-1] < y.shape[-1]:
        return y @ kernel, jnp.einsum("...i,...o->io", x, y).T
    return y @ kernel, jnp.einsum("...o,...i->oi", y, x)


_matmul.defvjp(_forward, _backward)


class Norm(nnx.Module):
    """Root mean square norm (1910.07467) or layer norm (1607.06450), in float32."""

    def __init__(
        self, config: DecoderConfig, size: int, axis: str | None = "embed", scaled: bool = True
    ):
        start = jnp.zeros(size) if config.norm == "rms_plus_one" else jnp.ones(size)
        self.scale = nnx.Param(start, axes=(axis,)) if scaled else None
        self.bias = nnx.Param(jnp.zeros(size), axes=(axis,)) if config.norm_bias else None
        self.kind, self.eps = config.norm, config.norm_eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = x.astype(jnp.float32)
        if self.kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        if self.scale is not None:
            scale = self.scale[...].astype(jnp.float32)
            wide = wide * (1 + scale if self.kind == "rms_plus_one" else scale)
        if self.bias is not None:
            wide = wide + self.bias[...].astype(jnp.float32)
        return wide.astype(x.dtype)


class FeedForward(nnx.Module):
    """Two projections with an activation between, or three (a gated one, 2002.05202)."""

    def __init__(self, config: DecoderConfig, ffn: int, rngs: nnx.Rngs):
        embed, bias = config.embed_dim, config.mlp_bias
        gate = Linear(rngs, embed, ffn, ("embed", "ffn"), bias) if config.gated else None
        self.gate = gate
        self.up = Linear(rngs, embed, ffn, ("embed", "ffn"), bias)
        self.down = Linear(rngs, ffn, embed, ("ffn", "embed"), bias)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if self.gate is None:
            return self.down(apply_activation(self.activation, self.up(x)))
        return self.down(apply_activation(self.activation, self.gate(x), self.up(x)))
