"""Activation functions, named as in ``config.json``.

Axes: B rows, F feed-forward.
"""

from collections.abc import Callable
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["ACTIVATIONS", "XIELU", "XIELU_NAME", "apply_activation", "apply_clamped_swiglu"]
__all__ += ["keep_largest"]

XIELU_NAME = "xielu"

_gelu_tanh = partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "tanh": jnp.tanh,
}


def apply_activation(
    name: str, x: Float[Array, "*B F"], multiplier: Float[Array, "*B F"] | None = None
) -> Float[Array, "*B F"]:
    """activation(x), or activation(x) · multiplier in a gated feed-forward layer (2002.05202).

    The backward pass computes the activation again from its inputs, which takes less memory than
    keeping what its derivative needs.
    """
    activation = ACTIVATIONS[name]
    if multiplier is None:
        return jax.checkpoint(activation)(x)
    return jax.checkpoint(lambda x, multiplier: activation(x) * multiplier)(x, multiplier)


def apply_clamped_swiglu(
    gate: Float[Array, "*B F"], up: Float[Array, "*B F"], alpha: float, limit: float
) -> Float[Array, "*B F"]:
    """(up + 1) · gate · sigmoid(alpha · gate), of a clamped gate and up projection (gpt-oss).

    The gate is at most ``limit``; the up projection lies between -limit and limit.
    """

    def compute(gate: Array, up: Array) -> Array:
        gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
        return (up + 1) * gate * jax.nn.sigmoid(alpha * gate)

    return jax.checkpoint(compute)(gate, up)


def keep_largest(x: Float[Array, "*B F"], sparsity: float) -> Float[Array, "*B F"]:
    """By how much the features of a token exceed a quantile of theirs, else 0 (Gemma 3n).

    Args:
        sparsity: the quantile, as if they were normally distributed.
    """

    def compute(x: Array) -> Array:
        wide = x.astype(jnp.float32)
        mean = wide.mean(axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
        # the root has no gradient at 0, where all features are equal, as those of padding
        is_positive = variance > 0
        deviation = jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, variance, 1.0)), 0.0)
        cutoff = mean + deviation * NormalDist().inv_cdf(sparsity)
        return jax.nn.relu(wide - cutoff).astype(x.dtype)

    return jax.checkpoint(compute)(x)


class XIELU(nnx.Module):
    """xIELU (2411.13010, section 3): quadratic above zero, exponential below, with learned shares.

    Checkpoints hold all four numbers; ``beta`` and ``eps`` are never trained.
    """

    def __init__(self) -> None:
        self.alpha_p = nnx.Param(jnp.zeros(1), axes=(None,))
        self.alpha_n = nnx.Param(jnp.zeros(1), axes=(None,))
        self.beta = nnx.Param(jnp.full((), 0.5), axes=())
        self.eps = nnx.Param(jnp.full((), -1e-6), axes=())

    def __call__(self, x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
        beta, eps = (
            jax.lax.stop_gradient(one[...]).astype(x.dtype) for one in (self.beta, self.eps)
        )
        alpha_p = jax.nn.softplus(self.alpha_p[...].astype(x.dtype))
        alpha_n = beta + jax.nn.softplus(self.alpha_n[...].astype(x.dtype))
        above = alpha_p * x * x
        below = (jnp.expm1(jnp.minimum(x, eps)) - x) * alpha_n
        return jnp.where(x > 0, above, below) + beta * x
