"""The parts of transformer layers: linear projections, norms, the feed-forward layer.

Axes: B rows, T tokens, D embedding, F feed-forward, I inputs and O outputs of a projection.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import XIELU, XIELU_NAME, apply_activation, keep_largest
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.products import multiply

__all__ = ["FeedForward", "Linear", "Norm", "matmul", "scale"]


class Linear(nnx.Module):
    """y = W x + b, and + scale · B A x with LoRA factors (2106.09685, section 4.1).

    With DoRA's magnitudes each row of W + scale · B A is rescaled (2402.09353, section 4).

    W is [out, in], as in checkpoints, so it is not transposed on the way in or out. Products of
    few rows, as in decoding, also read it faster so on a CPU.

    Args:
        axes: the logical axes of inputs and outputs (see ``sharding.py``).
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        size_in: int,
        size_out: int,
        axes: tuple[str | None, str | None],
        bias: bool,
    ):
        # drawn as [in, out] and transposed: the embedded decoder was initialised in this order
        kernel = rngs.params.normal((size_in, size_out)).T * size_in**-0.5
        self.kernel = nnx.Param(kernel, axes=axes[::-1])
        self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[1:]) if bias else None
        self.lora: Any = nnx.data(None)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        kernel = self.kernel[...].astype(x.dtype)
        y = matmul(x, kernel)
        has_magnitude = self.lora is not None and self.lora.magnitude is not None
        if has_magnitude:  # which belongs to the kernel, and not to the bias
            y = self.lora.scale_rows(y + self.lora(x), kernel)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y if self.lora is None or has_magnitude else y + self.lora(x)

    def effective_kernel(self, dtype: Any) -> Float[Array, "O I"]:
        """The kernel with the update of LoRA, where there is one (``LoRA.update_kernel``)."""
        kernel = self.kernel[...].astype(dtype)
        return kernel if self.lora is None else self.lora.update_kernel(kernel)


@jax.custom_vjp
def matmul(x: Float[Array, "*B I"], kernel: Float[Array, "O I"]) -> Float[Array, "*B O"]:
    """W x, whose gradient with respect to W is faster on a CPU than JAX's own.

    That gradient is a product over rows, and XLA transposes its left factor on a CPU. The narrower
    of the two factors is on the left here; JAX always puts the gradient of y there. Where W is
    frozen, its gradient is not computed.
    """
    return multiply("...i,oi->...o", x, kernel)


def _matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx = multiply("...o,oi->...i", dy, kernel)
    if x.shape[-1] < dy.shape[-1]:
        return dx, multiply("...i,...o->io", x, dy).T
    return dx, multiply("...o,...i->oi", dy, x)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Norm(nnx.Module):
    """Root mean square norm (1910.07467) or layer norm (1607.06450), computed in float32."""

    def __init__(
        self,
        config: DecoderConfig,
        size: int | tuple[int, int],
        axis: str | None = "embed",
        scaled: bool = True,
    ):
        self.plus_one = config.norm.endswith("_plus_one")
        axes = (axis, None) if isinstance(size, tuple) else (axis,)
        scale = jnp.zeros(size) if self.plus_one else jnp.ones(size)
        self.scale = nnx.Param(scale, axes=axes) if scaled and config.norm_scale else None
        self.bias = nnx.Param(jnp.zeros(size), axes=axes) if config.norm_bias else None
        self.is_layer_norm, self.eps = config.norm.startswith("layer"), config.norm_eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = x.astype(jnp.float32)
        if self.is_layer_norm:
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        if self.scale is not None:
            scale = self.scale[...].astype(jnp.float32)
            wide = wide * (1 + scale if self.plus_one else scale)
        if self.bias is not None:
            wide = wide + self.bias[...].astype(jnp.float32)
        return wide.astype(x.dtype)


def scale(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """x times a number of the config, which is mostly 1."""
    return x if factor == 1 else x * factor


class FeedForward(nnx.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) · up(x)) (2002.05202).

    Args:
        sparsity: the share of a token's gates that become zero.
    """

    def __init__(self, config: DecoderConfig, ffn_dim: int, rngs: nnx.Rngs, sparsity: float = 0.0):
        embed, bias = config.embed_dim, config.mlp_bias
        gate = Linear(rngs, embed, ffn_dim, ("embed", "ffn"), bias) if config.gated else None
        self.gate = gate
        self.up = Linear(rngs, embed, ffn_dim, ("embed", "ffn"), bias)
        self.down = Linear(rngs, ffn_dim, embed, ("ffn", "embed"), bias)
        self.activation = config.activation
        self.xielu = XIELU() if config.activation == XIELU_NAME else None
        self.sparsity = sparsity
        self.gate_scale = config.multipliers.ffn_gate
        self.output_scale = config.multipliers.ffn_output

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if self.xielu is not None:
            return self.down(self.xielu(self.up(x)))
        if self.gate is None:
            return self.down(apply_activation(self.activation, self.up(x)))
        gate = scale(self.gate(x), self.gate_scale)
        if self.sparsity:
            gate = keep_largest(gate, self.sparsity)
        hidden = apply_activation(self.activation, gate, self.up(x))
        return scale(self.down(hidden), self.output_scale)
