"""Multi-head latent attention: both of its forms, and what it keeps of prefix and tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.attention import PackedRows, causal_mask
from adapt_jax.decoders.config import DecoderConfig, LatentAttentionConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import encode_prefix
from adapt_jax.methods.lora import attach_lora
from adapt_jax.sampling.memory import count_slot_bytes

PREFIX, TOKENS, SLOTS = 5, 9, 12
CONFIG = DecoderConfig(
    family="MiniCPM3ForCausalLM", vocab_size=40, embed_dim=16, ffn_dim=24, num_layers=2,
    num_heads=4, num_kv_heads=4, head_dim=4, context_length=64,
    latent_attention=LatentAttentionConfig(kv_rank=10, query_rank=12, nope_dim=6, value_dim=5),
)  # fmt: skip


def make_decoder(with_lora: bool = False) -> Decoder:
    """A decoder with weights large enough for the tokens to matter."""
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(0))
    if with_lora:
        attach_lora(decoder, ["kv_up", "kv_down", "query_up", "query_down"], 2, 4.0, nnx.Rngs(2))
        for layer in decoder.layers:  # B is zero at first
            factors = layer.attention.kv_up.lora
            factors.b.set_value(nnx.Rngs(3).params.normal(factors.b[...].shape))
    return decoder


def draw_tokens(rows: int = 2) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 40, (rows, TOKENS)))


def draw_soft() -> jax.Array:
    return nnx.Rngs(1).params.normal((PREFIX, 16))


def run_whole(decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> jax.Array:
    """Hidden states of the tokens, with the prefix repeated in every row."""
    front = jnp.broadcast_to(soft, (tokens.shape[0], *soft.shape))
    embeddings = jnp.concatenate([front, decoder.embed(tokens)], axis=1)
    positions = jnp.broadcast_to(jnp.arange(embeddings.shape[1]), embeddings.shape[:2])
    mask = causal_mask(jnp.ones(embeddings.shape[:2], jnp.int32))
    return decoder(embeddings, positions, mask)[0][:, PREFIX:]


def run_shared(decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> jax.Array:
    """The same with the prefix encoded once."""
    cache = encode_prefix(decoder, soft)
    positions = PREFIX + jnp.broadcast_to(jnp.arange(TOKENS), tokens.shape)
    mask = causal_mask(jnp.ones_like(tokens))
    return decoder(decoder.embed(tokens), positions, mask, prefix=cache.blocks)[0]


def run_cached(decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> jax.Array:
    """The same with a few tokens at a time, and a cache."""
    prefix, start, hidden = encode_prefix(decoder, soft).blocks, 0, []
    cache: Any = [
        tuple(jnp.zeros((2, heads, SLOTS, size)) for heads, size in CONFIG.kv_cache_sizes(n))
        for n in range(2)
    ]
    for size in (1, 4, 3, 1):
        at = start + jnp.broadcast_to(jnp.arange(size), (2, size))
        out, cache = decoder(
            decoder.embed(tokens[:, start : start + size]),
            PREFIX + at,
            jnp.arange(SLOTS) <= at[..., None],
            prefix=prefix,
            cache=cache,
            write_at=jnp.full(2, start),
        )
        hidden.append(out)
        start += size
    return jnp.concatenate(hidden, axis=1)


def compiled(run: Any, decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> jax.Array:
    graph, state = nnx.split(decoder)
    return jax.jit(lambda state, *rest: run(nnx.merge(graph, state), *rest))(state, soft, tokens)


@pytest.mark.parametrize("with_lora", [False, True])
def test_the_absorbed_form_of_cached_steps_equals_the_expanded_one(with_lora: bool) -> None:
    decoder, soft, tokens = make_decoder(with_lora), draw_soft(), draw_tokens()
    expected = compiled(run_whole, decoder, soft, tokens)
    found = compiled(run_cached, decoder, soft, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    other = compiled(run_whole, make_decoder(not with_lora), soft, tokens)
    assert np.abs(other - expected).max() > 1e-2  # the factors matter


def test_a_shared_prefix_has_the_output_and_gradients_of_the_repeated_one() -> None:
    graph, state = nnx.split(make_decoder(with_lora=True))
    soft, tokens = draw_soft(), draw_tokens()
    cotangent = nnx.Rngs(4).params.normal((2, TOKENS, 16))

    def loss(run: Any, state: Any, soft: jax.Array) -> jax.Array:
        return (run(nnx.merge(graph, state), soft, tokens) * cotangent).sum()

    shared, repeated = (
        jax.tree.leaves(
            jax.jit(jax.value_and_grad(partial(loss, run), argnums=(0, 1)))(state, soft)
        )
        for run in (run_shared, run_whole)
    )
    for one, other in zip(shared, repeated, strict=True):
        scale = max(float(jnp.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, atol=2e-5 * scale, rtol=0)


def test_packed_segments_have_the_output_of_rows_of_their_own() -> None:
    decoder, soft, tokens = make_decoder(), draw_soft(), draw_tokens()
    expected = compiled(run_shared, decoder, soft, tokens).reshape(1, -1, 16)
    segments = jnp.repeat(jnp.asarray([[1, 2]]), TOKENS, axis=1)
    positions = PREFIX + jnp.tile(jnp.arange(TOKENS), 2)[None]
    found, _ = decoder(
        decoder.embed(tokens.reshape(1, -1)),
        positions,
        PackedRows(segments),
        prefix=encode_prefix(decoder, soft).blocks,
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_a_layer_keeps_its_latents_alone() -> None:
    cache = encode_prefix(make_decoder(), draw_soft())
    shapes = [(keys.shape, values.shape) for keys, values in cache.layers]
    assert shapes == [((1, PREFIX, 14), (1, PREFIX, 0))] * 2
    per_token = count_slot_bytes(CONFIG, 10, 4) - count_slot_bytes(CONFIG, 9, 4)
    assert per_token == 2 * 14 * 4  # layers, features of a latent with its rotary part, bytes


def test_as_many_key_value_heads_as_heads_are_expected() -> None:
    with pytest.raises(ValueError, match="num_key_value_heads 2: expected 4"):
        DecoderConfig(**vars(CONFIG) | {"num_kv_heads": 2})
