"""Attention: a shared prefix and a row's own keys under one softmax.

Axes: B rows, T tokens, P prefix tokens, S cache slots, N query heads, K key/value heads,
G = N/K queries per key/value head, H head size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

KeysValues = tuple[Array, Array]  # keys and values of one layer: [B, S, K, H], or [P, K, H] shared
Block = tuple[Array, Array, Array | None]  # keys, values, and who may look at them

CHUNK = 64  # queries that are attended at once, at least
MASKED = -1e30  # finite, so that a row which sees nothing (padding) yields no NaN


def attend(queries: Float[Array, "B T N H"], blocks: list[Block]) -> Float[Array, "B T N H"]:
    """Softmax attention over several blocks of keys that share **one** softmax.

    A block whose keys have no row axis ([P, K, H], the prefix) is shared by all rows: it is
    stored and read once. Masks are [S], or [B, T, S]; None means that all may look. The last
    block is a row's own. Where it has as many keys as there are queries it is causal, so the
    queries go in up to eight chunks, each against the keys up to its end: half the work, and
    scores that stay in cache (3-4 times faster on a CPU than all at once).
    """
    *shared, (keys, values, mask) = blocks
    tokens = queries.shape[1]
    if keys.shape[-3] != tokens or tokens < 2 * CHUNK:
        return _attend(queries, blocks)
    size = max(CHUNK, -(-tokens // 8))
    mixed = []
    for start in range(0, tokens, size):
        stop = min(start + size, tokens)
        seen = None if mask is None else mask[:, start:stop, :stop]
        own = (keys[:, :stop], values[:, :stop], seen)
        mixed.append(_attend(queries[:, start:stop], [*shared, own]))
    return jnp.concatenate(mixed, axis=1)


def _attend(queries: Float[Array, "B T N H"], blocks: list[Block]) -> Float[Array, "B T N H"]:
    rows, tokens, heads, size = queries.shape
    kv_heads = blocks[0][0].shape[-2]
    group = heads // kv_heads
    grouped = queries.reshape(rows, tokens, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows, kv_heads, group * tokens, size) * size**-0.5
    scores = []
    for keys, _, mask in blocks:
        turned = jnp.swapaxes(keys, -3, -2)
        equation = "bkqh,ksh->bkqs" if keys.ndim == 3 else "bkqh,bksh->bkqs"
        score = jnp.einsum(equation, grouped, turned, preferred_element_type=jnp.float32)
        if mask is not None:
            score = score.reshape(rows, kv_heads, group, tokens, -1)
            score = jnp.where(mask if mask.ndim == 1 else mask[:, None, None], score, MASKED)
            score = score.reshape(rows, kv_heads, group * tokens, -1)
        scores.append(score)
    highest = jnp.stack([score.max(axis=-1) for score in scores]).max(axis=0)[..., None]
    highest = jax.lax.stop_gradient(highest)
    mixed, total = jnp.zeros(()), jnp.zeros(())
    for score, (_, values, _) in zip(scores, blocks, strict=True):
        weights = jnp.exp(score - highest)
        equation = "bkqs,ksh->bkqh" if values.ndim == 3 else "bkqs,bksh->bkqh"
        turned = jnp.swapaxes(values, -3, -2)
        part = jnp.einsum(
            equation, weights.astype(values.dtype), turned, preferred_element_type=jnp.float32
        )
        mixed, total = mixed + part, total + weights.sum(axis=-1, keepdims=True)
    out = (mixed / total).astype(queries.dtype).reshape(rows, kv_heads, group, tokens, size)
    return out.transpose(0, 3, 1, 2, 4).reshape(queries.shape)


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Who sees whom in packed rows: earlier tokens of the same segment; segment 0 is padding."""
    tokens = segments.shape[-1]
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
    return same & jnp.tril(jnp.ones((tokens, tokens), bool))
