"""Products of arrays of one dtype, rounded to it once, after all sums.

XLA computes bfloat16 products on a CPU up to nine times faster if their results are asked for in
float32 (benchmarks/RESULTS.md, "bfloat16 on a CPU"). Elsewhere a float32 result would only be more
to exchange between devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from adapt_jax.utils.cpu import run_by_platform

__all__ = ["multiply", "multiply_grouped"]


def multiply(equation: str, x: Array, y: Array, dtype: Any = None) -> Array:
    """The einsum of two arrays.

    Args:
        equation: an ellipsis stands before the last axis alone.
        dtype: of the result; by default that of ``x``.
    """
    inputs, output = equation.split("->")

    def multiply_flat(x: Array, y: Array, dtype: Any) -> Array:
        flat = [
            one.reshape(-1, one.shape[-1]) if term.startswith("...") else one
            for term, one in zip(inputs.split(","), (x, y), strict=True)
        ]
        product = jnp.einsum(equation.replace("...", "z"), *flat, preferred_element_type=dtype)
        return product.reshape(*x.shape[:-1], -1) if output.startswith("...") else product

    def multiply_any(x: Array, y: Array, dtype: Any) -> Array:
        return jnp.einsum(equation, x, y, preferred_element_type=dtype)

    # with more axes than two, XLA would transpose a copy of a bfloat16 y
    return _accumulate(multiply_flat, multiply_any, dtype or x.dtype, x, y)


def multiply_grouped(
    x: Float[Array, "S I"], kernels: Float[Array, "E I O"], sizes: Int[Array, " E"]
) -> Float[Array, "S O"]:
    """Rows multiplied by the kernel of their group; group e is the next ``sizes[e]`` rows."""

    def multiply_groups(x: Array, kernels: Array, dtype: Any) -> Array:
        return jax.lax.ragged_dot(x, kernels, sizes, preferred_element_type=dtype)

    return _accumulate(multiply_groups, multiply_groups, x.dtype, x, kernels)


def _accumulate(
    one_cpu: Callable[[Array, Array, Any], Array],
    other: Callable[[Array, Array, Any], Array],
    dtype: Any,
    x: Array,
    y: Array,
) -> Array:
    """A product of x and y, whose functions take the dtype of the result."""
    if x.dtype == jnp.float32:
        return other(x, y, dtype)
    found: Array = run_by_platform(
        lambda x, y: one_cpu(x, y, jnp.float32).astype(dtype),
        lambda x, y: other(x, y, dtype),
        x,
        y,
    )
    return found
