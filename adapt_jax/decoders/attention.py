"""Attention: a shared prefix and a row's own keys under one softmax.

Axes: B rows, T tokens, P prefix tokens, S cache slots, N query heads, K key/value heads,
G = N/K queries per key/value head, H head size.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.utils.cpu import MAX_QUERY_CHUNKS, MIN_QUERIES_PER_CHUNK

KVPair = tuple[Array, Array]  # keys and values of one layer: [B, K, S, H], or [K, P, H] shared
KVBlock = tuple[Array, Array, Array | None]  # keys, values, and who may look at them

MASKED = -1e30  # finite, so that a row which sees nothing (padding) yields no NaN


def attend(
    queries: Float[Array, "B T N H"],
    blocks: list[KVBlock],
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T N H"]:
    """Softmax attention over several blocks of keys that share **one** softmax.

    A block whose keys have no row axis ([K, P, H], the prefix) is shared by all rows: it is
    stored and read once. Masks are [S], or [B, T, S]; None means that all may look. The last
    block is a row's own. Where it has as many keys as there are queries it is causal, so the
    queries go in up to eight chunks, each against the keys up to its end: half the work, and
    scores that stay closer to the cache than all at once.

    Args:
        scale: of the scores; 1/sqrt(H) when not given.
        softcap: scores x become softcap·tanh(x/softcap) (Gemma 2, 2408.00118, section 2).
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    *shared, (keys, values, mask) = blocks
    tokens = queries.shape[1]
    if keys.shape[-2] != tokens or tokens <= MIN_QUERIES_PER_CHUNK:
        return _attend(queries, blocks, scale, softcap)
    size = max(MIN_QUERIES_PER_CHUNK, -(-tokens // MAX_QUERY_CHUNKS))
    mixed = []
    for start in range(0, tokens, size):
        stop = min(start + size, tokens)
        seen = None if mask is None else mask[:, start:stop, :stop]
        own = (keys[:, :, :stop], values[:, :, :stop], seen)
        prompt_prefix = [
            (keys, values, seen if seen is None or seen.ndim == 1 else seen[:, start:stop])
            for keys, values, seen in shared
        ]
        mixed.append(_attend(queries[:, start:stop], [*prompt_prefix, own], scale, softcap))
    return jnp.concatenate(mixed, axis=1)


def _attend(
    queries: Float[Array, "B T N H"], blocks: list[KVBlock], scale: float, softcap: float | None
) -> Float[Array, "B T N H"]:
    """Each block's scores stay in the order in which its product yields them.

    That is [B, K] first for a row's own keys, but [K, B] for shared ones, where all rows go into
    one product for each head. Only the sums, which are small, are turned to a common order.
    """
    rows, tokens, heads, size = queries.shape
    kv_heads = blocks[0][0].shape[-3]
    group = heads // kv_heads
    grouped = queries.reshape(rows, tokens, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows, kv_heads, group * tokens, size) * scale

    def turned(x: Array, keys: Array) -> Array:  # between [B, K] and the order of this block
        return jnp.swapaxes(x, 0, 1) if keys.ndim == 3 else x

    def product(equation: str, x: Array, y: Array) -> Array:
        wide = x.reshape(kv_heads, -1, x.shape[-1]) if y.ndim == 3 else x
        out = jnp.einsum(equation, wide, y, preferred_element_type=jnp.float32)
        return out.reshape(*x.shape[:3], -1)

    scores = []
    for keys, _, mask in blocks:
        score = product("...qh,...sh->...qs", turned(grouped, keys), keys)
        if softcap is not None:
            score = softcap * jnp.tanh(score / softcap)
        if mask is not None:
            split = score.reshape(*score.shape[:2], group, tokens, -1)
            seen = mask if mask.ndim == 1 else turned(mask[:, None], keys)[:, :, None]
            score = jnp.where(seen, split, MASKED).reshape(score.shape)
        scores.append(score)
    highest = [turned(s.max(axis=-1), keys) for s, (keys, *_) in zip(scores, blocks, strict=True)]
    top = jax.lax.stop_gradient(jnp.stack(highest).max(axis=0))
    mixed, total = jnp.zeros(()), jnp.zeros(())
    for score, (keys, values, _) in zip(scores, blocks, strict=True):
        weights = jnp.exp(score - turned(top, keys)[..., None])
        part = product("...qs,...sh->...qh", weights.astype(values.dtype), values)
        mixed = mixed + turned(part, keys)
        total = total + turned(weights.sum(axis=-1), keys)
    out = (mixed / total[..., None]).astype(queries.dtype)
    out = out.reshape(rows, kv_heads, group, tokens, size)
    return out.transpose(0, 3, 1, 2, 4).reshape(queries.shape)


def within(
    window: int,
    blocks: Sequence[tuple[Int[Array, "..."], Array | None]],
    positions: Int[Array, "B T"],
) -> list[Array]:
    """Masks [B, T, S] that also hide what stands ``window`` tokens back, or more.

    Args:
        blocks: of each block the positions of its keys ([S], or [B, S]), and its mask.
        positions: of the queries.
    """
    masks = []
    for at, mask in blocks:
        near = positions[:, :, None] - (at if at.ndim == 1 else at[:, None]) < window
        masks.append(near if mask is None else mask & near)
    return masks


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Who sees whom in packed rows: earlier tokens of the same segment; segment 0 is padding."""
    tokens = segments.shape[-1]
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
    return same & jnp.tril(jnp.ones((tokens, tokens), bool))
