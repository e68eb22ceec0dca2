"""The prefix is shared exactly: the same logits and gradients as repeating it in every row."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import Prefix, SoftPrompt, encode_prefix, round_up
from adapt_jax.pretrained.loading import PretrainedDecoder

ROWS, TOKENS, SOFT = 3, 7, 5
DISCRETE = (11, 12, 13)


@pytest.fixture(scope="module")
def decoder(tiny: PretrainedDecoder) -> Decoder:
    return tiny.decoder


@pytest.fixture(scope="module")
def soft() -> jax.Array:
    return 0.2 * jax.random.normal(jax.random.key(0), (SOFT, 32))


@pytest.fixture(scope="module")
def tokens() -> jax.Array:
    return jax.random.randint(jax.random.key(1), (ROWS, TOKENS), 3, 320)


def jitted(function: Any, *static: int) -> Any:
    """The function of (decoder, ...) compiled over the decoder's split state."""

    def call(decoder: Decoder, *arguments: Any) -> Any:
        graphdef, state = nnx.split(decoder)
        merged = lambda state, *rest: function(nnx.merge(graphdef, state), *rest)  # noqa: E731
        return jax.jit(merged, static_argnums=static)(state, *arguments)

    return call


def shared_logits(
    decoder: Decoder, soft: jax.Array, tokens: jax.Array, padded: int | None = None
) -> jax.Array:
    """The prefix encoded once, and attended from every row."""
    embeddings = Prefix((SoftPrompt(soft), DISCRETE)).embeddings(decoder)
    length = embeddings.shape[0]
    if padded is not None:
        embeddings = jnp.pad(embeddings, ((0, padded - length), (0, 0)), constant_values=3.0)
    cache = encode_prefix(decoder, embeddings, length)
    rows, size = tokens.shape
    positions = jnp.broadcast_to(length + jnp.arange(size), (rows, size))
    mask = causal_mask(jnp.ones((rows, size), jnp.int32))
    hidden, _ = decoder(decoder.embed(tokens), positions, mask, prefix=cache.blocks)
    return decoder.logits(hidden)


def repeated_logits(decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> jax.Array:
    """The same prefix repeated in every row."""
    front = jnp.concatenate([soft, decoder.embed(jnp.asarray(DISCRETE))])
    rows, length = tokens.shape[0], front.shape[0]
    front = jnp.broadcast_to(front, (rows, *front.shape))
    embeddings = jnp.concatenate([front, decoder.embed(tokens)], axis=1)
    total = embeddings.shape[1]
    positions = jnp.broadcast_to(jnp.arange(total), (rows, total))
    hidden, _ = decoder(embeddings, positions, causal_mask(jnp.ones((rows, total), jnp.int32)))
    return decoder.logits(hidden[:, length:])


def test_shared_prefix_gives_the_logits_of_the_repeated_one(
    decoder: Decoder, soft: jax.Array, tokens: jax.Array
) -> None:
    shared, repeated = jitted(shared_logits), jitted(repeated_logits)
    expected = repeated(decoder, soft, tokens)
    np.testing.assert_allclose(shared(decoder, soft, tokens), expected, atol=1e-5)
    bare = repeated(decoder, 0 * soft, tokens)
    assert np.abs(expected - bare).max() > 1e-2  # the prefix matters


def test_shared_prefix_gives_the_gradients_of_the_repeated_one(
    decoder: Decoder, soft: jax.Array, tokens: jax.Array
) -> None:
    graphdef, state = nnx.split(decoder)
    targets = jnp.roll(tokens, -1, axis=1)

    def loss(logits_of: Any, state: nnx.State, soft: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(logits_of(nnx.merge(graphdef, state), soft, tokens))
        return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean()

    shared, repeated = (
        jax.tree.leaves(jax.jit(jax.grad(partial(loss, f), argnums=(0, 1)))(state, soft))
        for f in (shared_logits, repeated_logits)
    )
    assert max(float(jnp.abs(gradient).max()) for gradient in repeated) > 1e-3
    for one, other in zip(shared, repeated, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_padding_of_the_prefix_is_never_seen(
    decoder: Decoder, soft: jax.Array, tokens: jax.Array
) -> None:
    shared = jitted(shared_logits, 3)
    plain = shared(decoder, soft, tokens, None)
    for padded in (round_up(SOFT + len(DISCRETE), 16), 128):
        np.testing.assert_allclose(shared(decoder, soft, tokens, padded), plain, atol=1e-5)


def test_one_compilation_serves_all_lengths_of_a_bucket(decoder: Decoder) -> None:
    compiled = jax.jit(lambda embeddings, length: encode_prefix(decoder, embeddings, length))
    for length in (3, 9, 16):
        cache = compiled(jnp.ones((16, 32)), length)
        assert cache.padded == 16 and int(cache.length) == length
    assert compiled._cache_size() == 1


def test_prefix_and_cache_together(decoder: Decoder, soft: jax.Array, tokens: jax.Array) -> None:
    prefix = Prefix((SoftPrompt(soft), DISCRETE))
    cache, length = encode_prefix(decoder, prefix.embeddings(decoder)), len(prefix)

    @jax.jit
    def step(fresh: jax.Array, at: jax.Array, slots: Any) -> Any:
        return decoder(
            decoder.embed(fresh),
            length + at[:, None],
            (jnp.arange(12) <= at[:, None])[:, None],
            prefix=cache.blocks,
            cache=slots,
            write_at=at,
        )

    shape = (ROWS, decoder.config.num_kv_heads, 12, decoder.config.head_dim)
    slots = [(jnp.zeros(shape), jnp.zeros(shape))] * decoder.config.num_layers
    hidden = []
    for place in range(TOKENS):
        fresh, slots = step(tokens[:, place : place + 1], jnp.full(ROWS, place), slots)
        hidden.append(fresh)
    stepped = decoder.logits(jnp.concatenate(hidden, axis=1))
    np.testing.assert_allclose(stepped, jitted(repeated_logits)(decoder, soft, tokens), atol=1e-5)


def test_order_of_the_parts_is_kept(decoder: Decoder, soft: jax.Array) -> None:
    front = Prefix((SoftPrompt(soft), DISCRETE)).embeddings(decoder)
    back = Prefix((DISCRETE, SoftPrompt(soft))).embeddings(decoder)
    np.testing.assert_array_equal(front[:SOFT], soft)
    np.testing.assert_array_equal(back[len(DISCRETE) :], soft)


def test_empty_prefix_changes_nothing(decoder: Decoder, tokens: jax.Array) -> None:
    for prefix in (Prefix(), Prefix(((),))):
        assert len(prefix) == 0
        assert prefix.embeddings(decoder).shape == (0, 32)
        assert encode_prefix(decoder, prefix.embeddings(decoder)).blocks is None


def test_soft_prompt_stays_float32_whatever_the_decoder_computes_in(decoder: Decoder) -> None:
    prompt = SoftPrompt(jnp.ones((4, 32), jnp.bfloat16))
    assert prompt.embeddings[...].dtype == jnp.float32
    assert Prefix((prompt,)).embeddings(decoder, jnp.bfloat16).dtype == jnp.bfloat16
    assert prompt.embeddings[...].dtype == jnp.float32


@pytest.mark.parametrize(("length", "expected"), [(1, 128), (128, 128), (129, 256), (0, 0)])
def test_bucket_rounds_up(length: int, expected: int) -> None:
    assert round_up(length) == expected
