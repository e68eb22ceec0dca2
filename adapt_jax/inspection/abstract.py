"""Arrays that exist in name only: shape, dtype and, on a mesh, where they are placed."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adapt_jax.decoders.sharding import batch_sharding, cache_sharding, state_shardings

__all__ = [
    "Tree",
    "cast",
    "count_bytes",
    "replicate",
    "shard_cache",
    "shard_like_params",
    "shard_params",
    "shard_rows",
    "with_sharding",
]

Tree = Any  # of jax.ShapeDtypeStruct, each with its sharding where there is a mesh


def count_bytes(tree: Tree) -> int:
    """Bytes that one device holds of these arrays."""

    def count(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return math.prod(shape) * _count_item_bytes(leaf.dtype)

    return sum(count(leaf) for leaf in jax.tree.leaves(tree))


def _count_item_bytes(dtype: Any) -> int:
    """Bytes of one element; a random key is two words of 4 bytes."""
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def cast(tree: Tree, dtype: Any) -> Tree:
    """The arrays with another dtype where they are floating-point."""

    def cast_leaf(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    return jax.tree.map(cast_leaf, tree)


def with_sharding(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and dtype, placed as ``sharding`` says (None: on one device)."""
    return jax.ShapeDtypeStruct(np.shape(array), array.dtype, sharding=sharding)


def shard_params(state: nnx.State, mesh: Mesh | None) -> Tree:
    """Parameters, placed by the table of logical axes."""
    if mesh is None:
        return state
    return jax.tree.map(with_sharding, state, state_shardings(state, mesh))


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays of which each device has a whole copy."""
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: with_sharding(leaf, sharding), tree)


def shard_rows(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays whose first axis is divided among the devices."""
    sharding = None if mesh is None else batch_sharding(mesh)
    return jax.tree.map(lambda leaf: with_sharding(leaf, sharding), tree)


def shard_cache(tree: Tree, mesh: Mesh | None) -> Tree:
    """Cached keys and values, whose rows and heads are divided among the devices."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: with_sharding(leaf, cache_sharding(leaf.shape, mesh)), tree)


def shard_like_params(opt_state: Tree, trainable: Tree, mesh: Mesh | None) -> Tree:
    """The optimizer's state: each array is placed as its parameter is, counters on every device.

    An array belongs to the parameter whose path is the end of its own.
    """
    if mesh is None:
        return opt_state
    params: dict[Any, Any] = dict(jax.tree_util.tree_flatten_with_path(trainable)[0])
    everywhere = NamedSharding(mesh, PartitionSpec())
    longest = max(map(len, params))

    def place(path: Any, leaf: Any) -> Any:
        ends = (path[-length:] for length in range(longest, 0, -1))
        param = next((params[end] for end in ends if end in params), None)
        if param is None or param.shape != leaf.shape:
            return with_sharding(leaf, everywhere)
        return with_sharding(leaf, param.sharding)

    return jax.tree_util.tree_map_with_path(place, opt_state)
