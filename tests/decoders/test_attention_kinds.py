"""Kinds of attention behind a shared prefix, with a cache, and in packed rows.

These are multi-head latent attention in both of its forms, and attention in chunks.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.attention import PackedRows, causal_mask
from adapt_jax.decoders.config import DecoderConfig, LatentAttentionConfig, LayerConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import Execution
from adapt_jax.decoders.fused_attention import choose_fused_attention
from adapt_jax.decoders.prefix import encode_prefix
from adapt_jax.methods.lora import attach_lora
from adapt_jax.sampling.memory import count_slot_bytes

PREFIX, TOKENS, SLOTS = 5, 9, 12
SHAPE: dict[str, Any] = dict(
    vocab_size=40, embed_dim=16, ffn_dim=24, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=4,
    context_length=64,
)  # fmt: skip
LATENT = DecoderConfig(
    "MiniCPM3ForCausalLM",
    **SHAPE,
    latent_attention=LatentAttentionConfig(kv_rank=10, query_rank=12, nope_dim=6, value_dim=5),
)
# chunks end inside the prefix and among the tokens; a layer without positions scales its queries
CHUNKS = DecoderConfig(
    "Llama4ForCausalLM",
    **SHAPE,
    qk_norm="unscaled",
    qk_norm_after_rope=True,
    layer_configs=(LayerConfig(chunk=4), LayerConfig(rope=None, query_scaling=(0.4, 3, 1))),
)


def make_decoder(
    config: DecoderConfig, with_lora: bool = False, with_dora: bool = False
) -> Decoder:
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    if with_lora:
        modules = ["kv_up", "kv_down", "query_up", "query_down"]
        attach_lora(decoder, modules, 2, 4.0, nnx.Rngs(2), dora=with_dora)
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
        tuple(
            jnp.zeros((2, heads, SLOTS, size)) for heads, size in decoder.config.kv_cache_sizes(n)
        )
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


@pytest.mark.parametrize("config", [LATENT, CHUNKS], ids=["latent", "chunks"])
def test_cached_steps_equal_the_whole_row(config: DecoderConfig) -> None:
    """With latents the steps are in the absorbed form, and the row in the expanded one."""
    arguments = make_decoder(config), draw_soft(), draw_tokens()
    expected, found = compiled(run_whole, *arguments), compiled(run_cached, *arguments)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("dora", [False, True])
def test_the_absorbed_form_computes_with_the_factors_of_lora(dora: bool) -> None:
    soft, tokens = draw_soft(), draw_tokens()
    plain, decoder = (make_decoder(LATENT, with_lora, dora) for with_lora in (False, True))
    expected = compiled(run_whole, decoder, soft, tokens)
    found = compiled(run_cached, decoder, soft, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert np.abs(compiled(run_whole, plain, soft, tokens) - expected).max() > 1e-2


@pytest.mark.parametrize("config", [LATENT, CHUNKS], ids=["latent", "chunks"])
def test_a_shared_prefix_has_the_output_and_gradients_of_the_repeated_one(
    config: DecoderConfig,
) -> None:
    graph, state = nnx.split(make_decoder(config))
    soft, tokens = draw_soft(), draw_tokens()
    cotangent = nnx.Rngs(4).params.normal((2, TOKENS, 16))

    def loss(run: Any, state: Any, soft: jax.Array) -> jax.Array:
        return (run(nnx.merge(graph, state), soft, tokens) * cotangent).sum()

    shared, repeated = (
        jax.tree.leaves(jax.jit(jax.value_and_grad(one, argnums=(0, 1)))(state, soft))
        for one in (partial(loss, run_shared), partial(loss, run_whole))
    )
    for one, other in zip(shared, repeated, strict=True):
        scale = max(float(jnp.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, atol=2e-5 * scale, rtol=0)


def run_packed(decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> jax.Array:
    """The rows as segments of one row, with two tokens of padding before and after them."""
    pad = lambda x: jnp.pad(x.reshape(1, -1), ((0, 0), (2, 2)))  # noqa: E731
    segments = pad(jnp.repeat(jnp.asarray([1, 2]), TOKENS))
    positions = pad(PREFIX + jnp.tile(jnp.arange(TOKENS), 2))
    prefix = encode_prefix(decoder, soft).blocks
    hidden, _ = decoder(decoder.embed(pad(tokens)), positions, PackedRows(segments), prefix=prefix)
    return hidden[:, 2:-2].reshape(2, TOKENS, -1)


@pytest.mark.parametrize("config", [LATENT, CHUNKS], ids=["latent", "chunks"])
def test_packed_segments_have_the_output_of_rows_of_their_own(config: DecoderConfig) -> None:
    arguments = make_decoder(config), draw_soft(), draw_tokens()
    expected, found = compiled(run_shared, *arguments), compiled(run_packed, *arguments)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_a_token_sees_its_own_chunk_alone() -> None:
    config = DecoderConfig(
        "Llama4ForCausalLM", **SHAPE | {"num_layers": 1}, layer_configs=(LayerConfig(chunk=4),)
    )
    decoder, soft, tokens = make_decoder(config), draw_soft(), draw_tokens()
    # of five tokens in front, the last is the first of the second chunk
    last, before_last = soft.at[4].add(1.0), soft.at[:4].add(1.0)
    plain, other, unseen = (
        compiled(run_shared, decoder, x, tokens) for x in (soft, last, before_last)
    )
    np.testing.assert_array_equal(plain, unseen)
    np.testing.assert_array_equal(plain[:, 3:], other[:, 3:])
    assert np.abs(plain - other)[:, :3].max(axis=(0, 2)).min() > 1e-3


def test_a_layer_keeps_its_latents_alone() -> None:
    cache = encode_prefix(make_decoder(LATENT), draw_soft())
    shapes = [(keys.shape, values.shape) for keys, values in cache.layers]
    assert shapes == [((1, PREFIX, 14), (1, PREFIX, 0))] * 2
    per_token = count_slot_bytes(LATENT, 10, 4) - count_slot_bytes(LATENT, 9, 4)
    assert per_token == 2 * 14 * 4  # layers, features of a latent with its rotary part, bytes


def test_as_many_key_value_heads_as_heads_are_expected() -> None:
    with pytest.raises(ValueError, match="num_key_value_heads 2: expected 4"):
        DecoderConfig(**vars(LATENT) | {"num_kv_heads": 2})


def test_a_kernel_attends_only_where_no_chunk_ends() -> None:
    rows = PackedRows(jnp.ones((1, 512), jnp.int32))
    for chunk, fits in ((518, False), (519, True)):
        config = DecoderConfig(**vars(CHUNKS) | {"layer_configs": (LayerConfig(chunk=chunk),)})
        fused = choose_fused_attention(Execution("splash"), rows, 7, config, jnp.float32)
        assert (fused is not None) == fits
