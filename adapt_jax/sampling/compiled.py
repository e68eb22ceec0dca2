"""What runs on the device: prefix and questions encoded, slots filled, slots decoded.

The compiled functions take the weights as arguments and the decoder's structure as a static one,
so that engines over the same shapes share them.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from adapt_jax.decoders.attention import KVPair, causal_mask
from adapt_jax.decoders.prefix import PrefixCache, PrefixCaches, encode_prefix
from adapt_jax.sampling.logits import SamplingParams, choose, draw_keys, log_probability, penalize

CHUNK = 8  # decoding steps on the device between two looks by the host

Cache = list[KVPair]  # per layer keys and values [B, K, S, H] of question and text, no prefix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SlotState:
    """What the device knows of each slot, beside its cache. A slot that was never filled is idle.

    ``token`` is the newest one: its keys and values belong to column ``length`` of the cache and
    are not there yet.
    """

    token: Int[Array, " B"]
    length: Int[Array, " B"]  # columns of the cache in use
    num_generated: Int[Array, " B"]  # new tokens so far
    max_new_tokens: Int[Array, " B"]  # new tokens at most
    example: Int[Array, " B"]  # crc32 of the request's id
    candidate: Int[Array, " B"]
    prefix: Int[Array, " B"]  # which one the row stands behind
    active: Bool[Array, " B"]
    seen: Bool[Array, "B V"]  # tokens that stand before; V is 0 where no penalty asks for it

    @staticmethod
    def idle(count: int, vocabulary: int = 0) -> "SlotState":
        """``count`` rows on the host, none of them active."""
        kinds: dict[str, Any] = {"example": np.uint32, "active": bool}
        names = [one.name for one in fields(SlotState)]
        rows: dict[str, Any] = {n: np.zeros(count, kinds.get(n, np.int32)) for n in names}
        rows["seen"] = np.zeros((count, vocabulary), bool)
        return SlotState(**rows)


@partial(jax.jit, static_argnums=0)
def encode_front(
    graph: Any, weights: Any, embeddings: Float[Array, "P D"], length: Int[Array, ""]
) -> PrefixCache:
    return encode_prefix(nnx.merge(graph, weights), embeddings, length)


@partial(jax.jit, static_argnums=0)
def encode_questions(
    graph: Any,
    weights: Any,
    prefix: PrefixCaches,
    which: Int[Array, " R"],
    tokens: Int[Array, "R T"],
    lengths: Int[Array, " R"],
) -> Cache:
    """Keys and values [R, K, T, H] of each row's first ``lengths`` tokens, behind its prefix."""
    decoder = nnx.merge(graph, weights)
    places = jnp.arange(tokens.shape[1])
    segments = (places < lengths[:, None]).astype(jnp.int32)
    positions = prefix.lengths[which][:, None] + places
    blocks = prefix.blocks(which, tokens.shape[1])
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    return decoder(
        embeddings,
        positions,
        causal_mask(segments),
        prefix=blocks,
        prefix_positions=prefix.positions,
    )[1]


def insert_into_slots(
    cache: Cache,
    rows: SlotState,
    where: Int[Array, " B"],
    encoded: Cache,
    question: Int[Array, " B"],
    new: SlotState,
) -> tuple[Cache, SlotState]:
    """Puts row ``question[i]`` of ``encoded`` and row ``i`` of ``new`` into slot ``where[i]``.

    Nothing is put where ``where`` is beyond the last slot. Layer by layer, as a compiler would have
    the copies of all layers in memory at once.
    """
    layers = [
        _fill_layer(kept, where, fresh, question)
        for kept, fresh in zip(cache, encoded, strict=True)
    ]
    return layers, _fill_rows(rows, where, new)


@partial(jax.jit, donate_argnums=0)
def _fill_layer(
    cache: KVPair, where: Int[Array, " B"], encoded: KVPair, question: Int[Array, " B"]
) -> KVPair:
    def put(kept: Array, fresh: Array) -> Array:
        cache_length = min(kept.shape[2], fresh.shape[2])  # padding may be longer than the cache
        return kept.at[where, :, :cache_length].set(fresh[question, :, :cache_length], mode="drop")

    return put(cache[0], encoded[0]), put(cache[1], encoded[1])


@partial(jax.jit, donate_argnums=0)
def _fill_rows(rows: SlotState, where: Int[Array, " B"], new: SlotState) -> SlotState:
    return jax.tree.map(lambda kept, fresh: kept.at[where].set(fresh, mode="drop"), rows, new)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(5, 6))
def decode_chunk(
    graph: Any,
    sampling: SamplingParams,
    eos: tuple[int, ...],
    weights: Any,
    prefix: PrefixCaches,
    cache: Cache,
    rows: SlotState,
    seed: Key[Array, ""],
) -> tuple[Cache, SlotState, Int[Array, "CHUNK B"], Float[Array, "CHUNK B"]]:
    """CHUNK steps of all slots. Returns also the new tokens and their log-probabilities."""
    decoder = nnx.merge(graph, weights)
    cache_length = jnp.arange(cache[0][0].shape[2])
    blocks, prompt_prefix = prefix.blocks(rows.prefix, 1), prefix.lengths[rows.prefix]

    def step(
        carry: tuple[Cache, SlotState], _: None
    ) -> tuple[tuple[Cache, SlotState], tuple[Array, Array]]:
        cache, rows = carry
        hidden, cache = decoder(
            decoder.embed(rows.token, decoder.embedding[...].dtype)[:, None],
            (prompt_prefix + rows.length)[:, None],
            (cache_length <= rows.length[:, None])[:, None],
            prefix=blocks,
            prefix_positions=prefix.positions,
            cache=cache,
            write_at=jnp.where(rows.active, rows.length, cache_length.size),  # beyond: not written
        )
        logits = decoder.logits(hidden[:, 0])
        keys = draw_keys(seed, rows.example, rows.candidate, rows.num_generated)
        seen, told = rows.seen, logits
        if sampling.repetition_penalty != 1:
            told = penalize(logits, seen, sampling.repetition_penalty)
        token = choose(told, keys, sampling).astype(jnp.int32)
        if sampling.repetition_penalty != 1:
            seen = seen.at[jnp.arange(token.size), token].set(True)
        one = rows.active.astype(jnp.int32)
        ended = jnp.isin(token, jnp.asarray(eos, jnp.int32)) | (
            rows.num_generated + one >= rows.max_new_tokens
        )
        after = replace(
            rows,
            token=token,
            length=rows.length + one,
            num_generated=rows.num_generated + one,
            active=rows.active & ~ended,
            seen=seen,
        )
        return (cache, after), (token, log_probability(logits, token))

    (cache, rows), news = jax.lax.scan(step, (cache, rows), length=CHUNK)
    return cache, rows, *news
