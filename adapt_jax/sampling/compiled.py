"""The compiled functions of sampling: prefix and questions are encoded, slots filled and decoded.

They take the weights as arguments and the decoder's structure as a static one, so that engines
over the same shapes share them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from adapt_jax.decoders.array_rows import insert_rows
from adapt_jax.decoders.attention import KVPair, causal_mask
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import INFERENCE
from adapt_jax.decoders.prefix import PrefixCache, PrefixCaches, encode_prefix
from adapt_jax.decoders.states import LayerState
from adapt_jax.sampling.logits import (
    SamplingParams,
    apply_repetition_penalty,
    get_log_probability,
    make_draw_keys,
    sample_token,
)

__all__ = [
    "CHUNK",
    "Cache",
    "SlotState",
    "concatenate_rows",
    "decode_chunk",
    "encode_prompt_prefix",
    "encode_questions",
    "insert_into_slots",
]

CHUNK = 8  # decoding steps on the device before the host looks at the tokens

# Keys and values [B, K, S, H] of each layer that attends, without those of the prefix; and the
# state of each other layer, which the prefix is part of.
Cache = list[KVPair | LayerState]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SlotState:
    """The state of each of B slots on the device, besides its cache.

    The keys and values of ``token`` are not in the cache yet; they go to column ``length``. The
    states of layers do not include it yet, either.

    Attributes:
        token: the newest one.
        length: columns of the cache in use.
        num_generated: new tokens so far.
        max_new_tokens: new tokens at most.
        example: CRC-32 of the request's id, for the random draws.
        candidate: the candidate's number, for the random draws.
        prefix: the number of the prefix that the slot attends to.
        active: whether the slot has a candidate that is not finished.
        seen: which of V tokens are in the prompt or were generated; V is 0 without a penalty.
    """

    token: Int[Array, " B"]
    length: Int[Array, " B"]
    num_generated: Int[Array, " B"]
    max_new_tokens: Int[Array, " B"]
    example: Int[Array, " B"]
    candidate: Int[Array, " B"]
    prefix: Int[Array, " B"]
    active: Bool[Array, " B"]
    seen: Bool[Array, "B V"]

    @staticmethod
    def idle(count: int, vocab_size: int = 0) -> "SlotState":
        """``count`` slots as arrays on the host, none of them active."""
        dtypes: dict[str, Any] = {"example": np.uint32, "active": bool}
        names = [one.name for one in fields(SlotState)]
        arrays: dict[str, Any] = {n: np.zeros(count, dtypes.get(n, np.int32)) for n in names}
        arrays["seen"] = np.zeros((count, vocab_size), bool)
        return SlotState(**arrays)


@partial(jax.jit, static_argnums=0)
def encode_prompt_prefix(
    graph: Any, weights: Any, embeddings: Float[Array, "P D"], length: Int[Array, ""]
) -> PrefixCache:
    """What layers keep of the prefix, of which the first ``length`` embeddings are no padding."""
    return encode_prefix(nnx.merge(graph, weights), embeddings, length, INFERENCE)


@partial(jax.jit, static_argnums=0)
def encode_questions(
    graph: Any,
    weights: Any,
    prefix: PrefixCaches,
    which: Int[Array, " R"],
    tokens: Int[Array, "R T"],
    lengths: Int[Array, " R"],
) -> Cache:
    """What layers keep of each row's first ``lengths`` tokens, which follow its prefix."""
    decoder = nnx.merge(graph, weights)
    columns = jnp.arange(tokens.shape[1])
    segments = (columns < lengths[:, None]).astype(jnp.int32)
    positions = prefix.lengths[which][:, None] + columns
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    _, cache = decoder(
        embeddings,
        positions,
        causal_mask(segments),
        prefix=prefix.blocks(which, tokens.shape[1]),
        prefix_positions=prefix.positions,
        execution=INFERENCE,
    )
    return cache


def concatenate_rows(caches: Sequence[Cache]) -> Cache:
    """Caches of equal shapes as one, with the rows of all."""
    if len(caches) == 1:
        return caches[0]
    return list(jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *caches))


def insert_into_slots(
    cache: Cache,
    slots: SlotState,
    where: Int[Array | np.ndarray, " B"],
    encoded: Cache,
    rows: Int[Array | np.ndarray, " B"],
    new: SlotState,
) -> tuple[Cache, SlotState]:
    """Puts row ``rows[i]`` of ``encoded`` and row i of ``new`` into slot ``where[i]``, for each i.

    A slot number past the last slot inserts nothing. Layer by layer: one compiled function for all
    layers would hold the copies of all of them at the same time.
    """
    layers = [
        _insert_into_layer(old, where, fresh, rows)
        for old, fresh in zip(cache, encoded, strict=True)
    ]
    return layers, _insert_into_state(slots, where, new)


@partial(jax.jit, donate_argnums=0)
def _insert_into_layer(
    cache: KVPair | LayerState,
    where: Int[Array | np.ndarray, " B"],
    encoded: KVPair | LayerState,
    rows: Int[Array | np.ndarray, " B"],
) -> KVPair | LayerState:
    def insert(old: Array, fresh: Array) -> Array:
        if isinstance(cache, LayerState):  # whole: nothing of what the slot held before remains
            return insert_rows(old, where, fresh, rows)
        columns = old.shape[2]  # the padded question may be longer
        return insert_rows(old, where, fresh[:, :, :columns], rows)

    inserted: KVPair | LayerState = jax.tree.map(insert, cache, encoded)
    return inserted


@partial(jax.jit, donate_argnums=0)
def _insert_into_state(
    slots: SlotState, where: Int[Array | np.ndarray, " B"], new: SlotState
) -> SlotState:
    return jax.tree.map(lambda old, fresh: old.at[where].set(fresh, mode="drop"), slots, new)


def _get_cache_length(cache: Cache) -> int:
    """The slots for tokens in each row of the cache; 0 where no layer attends."""
    return 0 if not cache or isinstance(cache[0], LayerState) else cache[0][0].shape[2]


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(5, 6))
def decode_chunk(
    graph: Any,
    sampling: SamplingParams,
    eos_ids: tuple[int, ...],
    weights: Any,
    prefix: PrefixCaches,
    cache: Cache,
    slots: SlotState,
    seed: Key[Array, ""],
) -> tuple[Cache, SlotState, Int[Array, "CHUNK B"], Float[Array, "CHUNK B"]]:
    """CHUNK decoding steps of all slots.

    Returns:
        the cache, the slots, the new tokens, and their log-probabilities under the decoder.
    """
    decoder = nnx.merge(graph, weights)
    columns = jnp.arange(_get_cache_length(cache))
    blocks, prefix_lengths = prefix.blocks(slots.prefix, 1), prefix.lengths[slots.prefix]

    def step(
        carry: tuple[Cache, SlotState], _: None
    ) -> tuple[tuple[Cache, SlotState], tuple[Array, Array]]:
        cache, slots = carry
        # 1. the newest token of each slot is read; a column past the last writes nothing
        hidden, cache = decoder(
            decoder.embed(slots.token, decoder.embedding[...].dtype)[:, None],
            (prefix_lengths + slots.length)[:, None],
            (columns <= slots.length[:, None])[:, None],
            prefix=blocks,
            prefix_positions=prefix.positions,
            cache=cache,
            write_at=jnp.where(slots.active, slots.length, columns.size),
            execution=INFERENCE,
        )
        # 2. the next token is drawn
        token, log_probabilities, seen = _draw_next(decoder, hidden[:, 0], slots, sampling, seed)
        # 3. slots move on, or end
        return (cache, _advance(slots, token, seen, eos_ids)), (token, log_probabilities)

    (cache, slots), (tokens, log_probabilities) = jax.lax.scan(step, (cache, slots), length=CHUNK)
    return cache, slots, tokens, log_probabilities


def _draw_next(
    decoder: Decoder,
    hidden: Float[Array, "B D"],
    slots: SlotState,
    sampling: SamplingParams,
    seed: Key[Array, ""],
) -> tuple[Int[Array, " B"], Float[Array, " B"], Bool[Array, "B V"]]:
    """The next token of each slot, its log-probability, and the tokens seen with it."""
    logits = decoder.logits(hidden)
    keys = make_draw_keys(seed, slots.example, slots.candidate, slots.num_generated)
    seen, penalized = slots.seen, logits
    if sampling.repetition_penalty != 1:
        penalized = apply_repetition_penalty(logits, seen, sampling.repetition_penalty)
    token = sample_token(penalized, keys, sampling).astype(jnp.int32)
    if sampling.repetition_penalty != 1:
        seen = seen.at[jnp.arange(token.size), token].set(True)
    return token, get_log_probability(logits, token), seen


def _advance(
    slots: SlotState, token: Int[Array, " B"], seen: Bool[Array, "B V"], eos_ids: tuple[int, ...]
) -> SlotState:
    """The slots after one more token; those that end with it are no longer active."""
    one = slots.active.astype(jnp.int32)
    is_eos = jnp.isin(token, jnp.asarray(eos_ids, jnp.int32))
    ends = is_eos | (slots.num_generated + one >= slots.max_new_tokens)
    return replace(
        slots,
        token=token,
        length=slots.length + one,
        num_generated=slots.num_generated + one,
        active=slots.active & ~ends,
        seen=seen,
    )
