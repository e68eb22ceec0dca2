"""ALiBi (2108.12409): each head prefers near keys by a bias that falls with their distance.

It stands in place of position embeddings. A softmax does not change when the same number is added
to all scores of a query, so transformers adds slope · (position of the key). Here the position of
the query is subtracted, so that the scores of near keys stay small and lose no digits.

Axes: B rows, T queries, S keys of a block, N query heads, K key/value heads, G = N/K.
"""

import math
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ["Alibi", "AlibiBias", "compute_slopes"]

MAX_BIAS = 8  # the slopes of a power of two heads end at 2 to the power of minus this


@dataclass(frozen=True)
class Alibi:
    """How a decoder computes its bias.

    Attributes:
        scale: of the bias. Falcon adds it to scores that are not scaled by the head size yet.
        in_bfloat16: whether slope, position and their product are each rounded to bfloat16, as
            Falcon was trained.
    """

    scale: float = 1.0
    in_bfloat16: bool = False


def compute_slopes(num_heads: int) -> Float[np.ndarray, " N"]:
    """By how much the bias of each head falls with each token (section 3), float32.

    A number of heads that is no power of two has the slopes of the next smaller one, and then every
    other slope of the next larger one.
    """
    smaller = 2 ** math.floor(math.log2(num_heads))
    spread = _spread_slopes(smaller)
    return np.concatenate([spread, _spread_slopes(2 * smaller)[::2]])[:num_heads]


def _spread_slopes(count: int) -> Float[np.ndarray, " N"]:
    """The slopes of a power of two heads: a geometric sequence."""
    return np.exp2(-MAX_BIAS / count * np.arange(1, count + 1)).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AlibiBias:
    """The bias of attention scores, from positions alone: no array of the scores' size is kept.

    Attributes:
        queries: the position of each query.
        keys: the position of each key, for each block of keys: [S], or [B, S] of own keys.
    """

    queries: Int[Array, "B T"]
    keys: tuple[Int[Array, "*B S"], ...]
    alibi: Alibi = field(metadata={"static": True})
    num_heads: int = field(metadata={"static": True})

    def select(self, start: int, stop: int) -> "AlibiBias":
        """The bias of queries ``start`` to ``stop``, and of own keys up to there."""
        *shared, own = self.keys
        return replace(self, queries=self.queries[:, start:stop], keys=(*shared, own[:, :stop]))

    def add_to(self, scores: Float[Array, "B K G*T S"], block: int) -> Float[Array, "B K G*T S"]:
        """Scores of a block of keys with the bias; of shared keys K comes before B.

        Args:
            block: its index.
        """
        keys, queries = self.keys[block], self.queries
        is_shared = keys.ndim == 1
        kv_heads, tokens = scores.shape[0 if is_shared else 1], queries.shape[1]
        # as the scores [B, K, G, T, S], with axes of size 1 where numbers are the same
        slopes = compute_slopes(self.num_heads).reshape(1, kv_heads, -1, 1, 1)
        of_queries = queries[:, None, None, :, None]
        if is_shared:
            slopes, of_queries = slopes.swapaxes(0, 1), of_queries.swapaxes(0, 1)
        else:
            keys = keys[:, None, None, None, :]
        bias = _compute_bias(self.alibi, slopes, keys, of_queries)
        by_query = scores.reshape(*scores.shape[:2], -1, tokens, scores.shape[-1])
        return (by_query + bias).reshape(scores.shape)


def _compute_bias(
    alibi: Alibi,
    slopes: Float[np.ndarray, "..."],
    keys: Int[Array, "..."],
    queries: Int[Array, "..."],
) -> Float[Array, "..."]:
    """Minus slope times distance, float32."""
    if not alibi.in_bfloat16:
        distances = (keys - queries).astype(jnp.float32)
        return jnp.asarray(slopes) * distances * alibi.scale
    rounded = _round_to_bfloat16(jnp.asarray(slopes))

    def place(positions: Array) -> Array:
        return _round_to_bfloat16(rounded * _round_to_bfloat16(positions.astype(jnp.float32)))

    return (place(keys) - place(queries)) * alibi.scale


def _round_to_bfloat16(x: Array) -> Array:
    """float32 with the digits of bfloat16; XLA would leave out a conversion there and back."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
