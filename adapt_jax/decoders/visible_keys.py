"""Which keys a query of packed rows sees, from numbers alone: no mask is kept in memory."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

__all__ = ["INDEX_BITS", "MAX_TOKENS", "VisibleKeys", "encode_queries"]

INDEX_BITS = 16
MAX_TOKENS = 1 << INDEX_BITS  # of a row: a query's index and its segment's start share 32 bits


def encode_queries(starts: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """For each query one number, its code: its index in the row, and where its segment begins."""
    index = jnp.arange(starts.shape[-1], dtype=jnp.int32)
    return (starts.astype(jnp.int32) << INDEX_BITS) | index


@dataclass(frozen=True)
class VisibleKeys:
    """Which keys a query sees, from numbers alone. Keys are counted with the prefix first."""

    prefix: int
    window: int | None

    def __call__(self, codes: Any, keys: Any) -> Any:
        """Whether queries with these codes (see encode_queries) see the keys of these indices."""
        index, start = codes & (MAX_TOKENS - 1), (codes >> INDEX_BITS) & (MAX_TOKENS - 1)
        own = keys - self.prefix
        visible = (own <= index) & ((own >= start) | (own < 0))
        if self.window is None:
            return visible
        # positions begin anew in each segment, so the prefix is as near to all of them
        distance = index - own - (own < 0).astype(np.int32) * start
        return visible & (distance < self.window)
