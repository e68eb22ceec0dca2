"""Reads and writes rows of arrays, without a wider copy of a whole array of 16-bit floats.

XLA on a CPU scatters 16-bit floats by way of a float32 copy of all of the array, and makes such a
copy of a table that a loop gathers from: of the cache for each new key, of the embeddings for each
chunk of steps. There arrays are written by a selection, which runs in place (benchmarks/RESULTS.md,
"bfloat16 on a CPU").

Axes: B rows, K key/value heads, S columns of a cache, T tokens, H head size.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from adapt_jax.utils.cpu import run_by_platform

__all__ = ["insert_rows", "take_rows", "write_columns"]


def take_rows(table: Float[Array, "V *D"], ids: Int[Array, "..."]) -> Float[Array, "..."]:
    """``table[ids]``."""
    if not _is_narrow(table):
        return table[ids]

    def take_each_time(table: Array, ids: Array) -> Array:
        # the barrier keeps XLA from widening the table once, before a loop
        table, ids = jax.lax.optimization_barrier((table, ids))
        return table[ids]

    taken: Array = run_by_platform(take_each_time, lambda table, ids: table[ids], table, ids)
    return taken


def write_columns(
    cache: Float[Array, "B K S H"], new: Float[Array, "B K T H"], start: Int[Array, " B"]
) -> Float[Array, "B K S H"]:
    """The cache with T columns of each row, from ``start`` on, replaced; none past its end."""

    def scatter(cache: Array, new: Array, start: Array) -> Array:
        rows, heads, tokens, _ = new.shape
        row, head = jnp.arange(rows)[:, None, None], jnp.arange(heads)[:, None]
        columns = (start[:, None] + jnp.arange(tokens))[:, None]
        return cache.at[row, head, columns].set(new)

    def select(cache: Array, new: Array, start: Array) -> Array:
        tokens = new.shape[2]
        token = (jnp.arange(cache.shape[2]) - start[:, None])[:, None, :, None]
        is_written = (token >= 0) & (token < tokens)
        if tokens > 1:
            new = jnp.take_along_axis(new, jnp.clip(token, 0, tokens - 1), axis=2)
        return jnp.where(is_written, new, cache)

    if not _is_narrow(cache):
        return scatter(cache, new, start)
    written: Array = run_by_platform(select, scatter, cache, new, start)
    return written


def insert_rows(
    old: Float[Array, "B ..."],
    where: Int[Array | np.ndarray, " N"],
    new: Float[Array, "R ..."],
    rows: Int[Array | np.ndarray, " N"],
) -> Float[Array, "B ..."]:
    """``old`` with row ``rows[i]`` of ``new`` at ``where[i]``; a number past the end inserts none.

    Where ``new`` is shorter in later axes, what lies beyond its ends stays as it is.
    """
    ends = new.shape[1:]

    def scatter(old: Array, new: Array) -> Array:
        return old.at[where, *map(slice, ends)].set(new[rows], mode="drop")

    def select(old: Array, new: Array) -> Array:
        source = jnp.full(len(old), -1).at[where].set(rows, mode="drop")
        is_written = jnp.expand_dims(source >= 0, range(1, old.ndim))
        for axis, end in enumerate(ends, 1):
            is_written &= jax.lax.broadcasted_iota(jnp.int32, old.shape, axis) < end
        beyond = [(0, size - end) for size, end in zip(old.shape[1:], ends, strict=True)]
        moved = jnp.pad(new[jnp.maximum(source, 0)], ((0, 0), *beyond))
        return jnp.where(is_written, moved, old)

    if not _is_narrow(old):
        return scatter(old, new)
    written: Array = run_by_platform(select, scatter, old, new)
    return written


def _is_narrow(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize == 2
