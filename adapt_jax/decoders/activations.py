"""Activation functions by the names that ``config.json`` gives them, and what they gate."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

gelu_tanh = partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "tanh": jnp.tanh,
}


def apply_activation(name: str, x: Float[Array, "*B F"], gated: Any = None) -> Float[Array, "*B F"]:
    """The activation of ``x``, times ``gated`` where something is gated (2002.05202).

    A backward pass makes it again from the two: that takes less than keeping what its derivative
    needs.
    """
    activation = ACTIVATIONS[name]
    if gated is None:
        return jax.checkpoint(activation)(x)
    return jax.checkpoint(lambda x, gated: activation(x) * gated)(x, gated)
