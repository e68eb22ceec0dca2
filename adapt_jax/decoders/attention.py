"""Attention over a shared prefix and a row's own keys, with one softmax over both.

Axes: B rows, T tokens, P prefix tokens, S keys, N query heads, K key/value heads,
G = N/K queries per key/value head, H head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.alibi import AlibiBias
from adapt_jax.utils.cpu import (
    FEW_QUERIES,
    MAX_QUERY_CHUNKS,
    MIN_QUERIES_PER_CHUNK,
    run_by_platform,
)

__all__ = ["KVBlock", "KVPair", "PackedRows", "attend", "causal_mask", "sliding_window_masks"]

# Keys and values of one layer: [B, K, S, H], or [K, P, H] shared. With latent attention the keys
# are latents, and the values are empty.
KVPair = tuple[Array, Array]
KVBlock = tuple[Array, Array, Array | None]  # keys, values, and the mask of who attends to them

MASKED_SCORE = -1e30  # finite: a row of padding alone would yield NaN from infinities


def attend(
    queries: Float[Array, "B T N H"],
    blocks: list[KVBlock],
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, " N"] | None = None,
    bias: AlibiBias | None = None,
) -> Float[Array, "B T N H"]:
    """Softmax attention over several blocks of keys, which share **one** softmax.

    A block whose keys have no row axis ([K, P, H], the prefix) is shared by all rows: it is stored
    and read once. The last block holds the rows' own keys. Where it has as many keys as there are
    queries, it is causal. The queries then go in chunks, each against the keys up to its end.

    Args:
        blocks: keys, values, and a mask, [S] or [B, T, S]. A mask of None hides nothing.
        scale: of the scores; by default 1/sqrt(H).
        softcap: scores x become softcap·tanh(x/softcap) (Gemma 2, 2408.00118, section 2).
        sinks: a score for each head that joins the softmax and has no value (gpt-oss).
        bias: is added to the scaled scores.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    *shared, (keys, values, mask) = blocks
    num_queries = queries.shape[1]
    if keys.shape[-2] != num_queries or num_queries <= MIN_QUERIES_PER_CHUNK:
        return _attend_chunk(queries, blocks, scale, softcap, sinks, bias)
    size = max(MIN_QUERIES_PER_CHUNK, -(-num_queries // MAX_QUERY_CHUNKS))
    outputs = []
    for start in range(0, num_queries, size):
        stop = min(start + size, num_queries)
        # own keys after the chunk's end are masked for all of it, so they are left out
        visible = None if mask is None else mask[:, start:stop, :stop]
        chunk_blocks: list[KVBlock] = [
            (k, v, m if m is None or m.ndim == 1 else m[:, start:stop]) for k, v, m in shared
        ]
        chunk_blocks.append((keys[:, :, :stop], values[:, :, :stop], visible))
        of_chunk = None if bias is None else bias.select(start, stop)
        chunk = queries[:, start:stop]
        outputs.append(_attend_chunk(chunk, chunk_blocks, scale, softcap, sinks, of_chunk))
    return jnp.concatenate(outputs, axis=1)


def _attend_chunk(
    queries: Float[Array, "B T N H"],
    blocks: list[KVBlock],
    scale: float,
    softcap: float | None,
    sinks: Float[Array, " N"] | None,
    bias: AlibiBias | None,
) -> Float[Array, "B T N H"]:
    """Attention of some queries to all keys of the blocks.

    The scores of a block keep the order in which its product yields them: [B, K, ...] for a row's
    own keys, and [K, B, ...] for shared ones, whose product takes all rows at once for each head.
    Only the sums over keys, which are small, are transposed to a common order.
    """
    rows, tokens, heads, size = queries.shape
    kv_heads = blocks[0][0].shape[-3]
    group = heads // kv_heads

    # the G queries of a key/value head side by side: [B, K, G*T, H]
    grouped = queries.reshape(rows, tokens, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows, kv_heads, group * tokens, size) * scale

    # scores of each block, soft-capped, with their bias, then masked
    scores = []
    replaced = [bias is None and _replaces_keys(keys, mask) for keys, _, mask in blocks]
    for number, (keys, _, mask) in enumerate(blocks):
        shown = _replace_hidden_keys(keys, mask) if replaced[number] else keys
        score = _compute_scores(_transpose(grouped, keys), shown)
        if softcap is not None:
            score = softcap * jnp.tanh(score / softcap)
        if bias is not None:
            score = bias.add_to(score, number)
        if mask is not None and not replaced[number]:
            visible = mask if mask.ndim == 1 else _transpose(mask[:, None], keys)[:, :, None]
            score = _mask_scores(score, visible, tokens)
        scores.append(score)

    # the highest score of each query over all blocks, so that no power overflows
    highest = [
        _transpose(s.max(axis=-1), keys) for s, (keys, *_) in zip(scores, blocks, strict=True)
    ]
    sink = None
    if sinks is not None:
        sink = _group_sinks(sinks, kv_heads, tokens)
        highest.append(jnp.broadcast_to(sink, highest[0].shape))
    top = jax.lax.stop_gradient(jnp.stack(highest).max(axis=0))

    out = _average_values(scores, blocks, replaced, top, sink).astype(queries.dtype)

    # back to [B, T, N, H]
    out = out.reshape(rows, kv_heads, group, tokens, -1)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, heads, -1)


def _average_values(
    scores: list[Array],
    blocks: list[KVBlock],
    replaced: list[bool],
    top: Float[Array, "B K G*T"],
    sink: Float[Array, "1 K G*T"] | None,
) -> Float[Array, "B K G*T H"]:
    """The values of all blocks by the weights of their one softmax.

    Args:
        replaced: whether hidden keys of a block are replaced, so that their scores are not masked.
        top: the highest score of each query.
    """
    # numerator and denominator, summed over the blocks
    weighted_values = jnp.zeros(())
    total = jnp.zeros(()) if sink is None else jnp.exp(sink - top)
    for number, (keys, values, mask) in enumerate(blocks):
        weights = jnp.exp(scores[number] - _transpose(top, keys)[..., None])
        if mask is not None and replaced[number]:
            weights = jnp.where(mask, weights, 0)
        weights = weights.astype(values.dtype)  # before both sums, so that it is written once
        update = _multiply("...qs,...sh->...qh", weights, values)
        weighted_values = weighted_values + _transpose(update, keys)
        total = total + _transpose(weights.sum(axis=-1, dtype=jnp.float32), keys)
    return weighted_values / total[..., None]


def _transpose(x: Array, keys: Array) -> Array:
    """From [B, K, ...] to the order of a block's scores, or back."""
    return jnp.swapaxes(x, 0, 1) if keys.ndim == 3 else x


def _replaces_keys(keys: Array, mask: Array | None) -> bool:
    """Whether the keys of a block that its mask hides are replaced, in place of their scores.

    A masked score is written once more before the highest is found: a seventh of the time in which
    SmolLM2-135M reads questions in bfloat16. In float32 replaced keys took 5 % longer. Not beside
    a bias, which would be that of another place.
    """
    return mask is not None and mask.ndim == 1 and keys.dtype == jnp.bfloat16


def _replace_hidden_keys(keys: Float[Array, "... S H"], mask: Array | None) -> Array:
    """The keys with a visible one in place of those that no query sees.

    The highest score then is that of a visible key.
    """
    if mask is None:
        return keys
    visible = jnp.take(keys, mask.argmax()[None], axis=-2)
    return jnp.where(mask[:, None], keys, visible)


def _compute_scores(queries: Array, keys: Array) -> Array:
    """The products of queries, in the order of a block's scores, with its keys."""
    few = 1 < queries.shape[2] < FEW_QUERIES and keys.dtype == jnp.float32
    multiply = partial(_multiply, "...qh,...sh->...qs")
    if keys.ndim == 3 or not few:
        return multiply(queries, keys)
    scores: Array = run_by_platform(_multiply_few, multiply, queries, keys)
    return scores


def _multiply_few(
    queries: Float[Array, "B K Q H"], keys: Float[Array, "B K S H"]
) -> Float[Array, "B K Q S"]:
    """The same for few queries: keys on the left, which are read as they lie, and padded queries.

    With the keys on the right XLA transposes a copy of each head's.
    """
    count = queries.shape[2]
    padded = jnp.pad(queries, ((0, 0), (0, 0), (0, FEW_QUERIES - count), (0, 0)))
    return jnp.einsum("bksh,bkqh->bksq", keys, padded)[..., :count].swapaxes(2, 3)


def _multiply(equation: str, x: Array, y: Array) -> Array:
    """The product of queries or weights, in the order of a block's scores, and keys or values."""
    # with shared keys, the queries of all rows are the rows of one product per head
    wide = x.reshape(x.shape[0], -1, x.shape[-1]) if y.ndim == 3 else x
    out = jnp.einsum(equation, wide, y, preferred_element_type=jnp.float32)
    return out.reshape(*x.shape[:3], -1)


def _mask_scores(
    scores: Float[Array, "B K G*T S"], visible: Bool[Array, "..."], tokens: int
) -> Float[Array, "B K G*T S"]:
    """The scores with those of hidden keys replaced; of shared keys K comes before B.

    Args:
        visible: [S], or [B, 1, 1, T, S] in the order of the scores.
        tokens: T.
    """
    by_query = scores.reshape(*scores.shape[:2], -1, tokens, scores.shape[-1])
    return jnp.where(visible, by_query, MASKED_SCORE).reshape(scores.shape)


def _group_sinks(sinks: Float[Array, " N"], kv_heads: int, tokens: int) -> Float[Array, "1 K G*T"]:
    """The sink of each query, in the order in which queries are grouped by key/value head."""
    by_head = sinks.astype(jnp.float32).reshape(kv_heads, -1)
    return jnp.repeat(by_head, tokens, axis=1)[None]


def sliding_window_masks(
    window: int | Int[Array, "B T"],
    blocks: Sequence[tuple[Int[Array, "*B S"], Array | None]],
    positions: Int[Array, "B T"],
) -> list[Bool[Array, "B T S"]]:
    """Each block's mask, which also hides keys that lie ``window`` or more tokens back.

    Args:
        window: of all queries, or of each one.
        blocks: the positions of each block's keys ([S], or [B, S] for own ones), and its mask.
        positions: of the queries.
    """
    masks = []
    window = window if isinstance(window, int) else window[:, :, None]
    for key_positions, mask in blocks:
        if key_positions.ndim == 2:
            key_positions = key_positions[:, None]
        near = positions[:, :, None] - key_positions < window
        masks.append(near if mask is None else mask & near)
    return masks


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """The mask of packed rows: a token attends to itself and earlier tokens of its segment.

    Segment 0 is padding, which attends to nothing and is seen by nobody.
    """
    tokens = segments.shape[-1]
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
    return same & jnp.tril(jnp.ones((tokens, tokens), bool))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedRows:
    """The mask of packed rows, by the segment of each token; what needs a mask makes one.

    Attributes:
        segments: as in ``causal_mask``; the tokens of a segment follow each other.
    """

    segments: Int[Array, "B T"]

    @property
    def mask(self) -> Bool[Array, "B T T"]:
        """Which keys each token attends to."""
        return causal_mask(self.segments)

    @property
    def starts(self) -> Int[Array, "B T"]:
        """The index in the row at which each token's segment begins."""
        index = jnp.arange(self.segments.shape[-1], dtype=jnp.int32)
        before = jnp.roll(self.segments, 1, axis=-1)
        begins = (self.segments != before) | (index == 0)
        return jax.lax.cummax(jnp.where(begins, index, 0), axis=self.segments.ndim - 1)
