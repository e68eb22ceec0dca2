"""ALiBi: each head prefers near keys, wherever these are kept."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders import fused_attention
from adapt_jax.decoders.alibi import Alibi, AlibiBias, compute_slopes
from adapt_jax.decoders.attention import PackedRows, causal_mask
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import Execution
from adapt_jax.decoders.prefix import PrefixCaches, encode_prefix
from adapt_jax.utils.cpu import MIN_QUERIES_PER_CHUNK

KINDS = {"exact": Alibi(), "rounded": Alibi(scale=0.35, in_bfloat16=True)}


@pytest.fixture(scope="module", params=KINDS)
def decoder(request: Any) -> Decoder:
    """Three query heads for each of two key heads; long texts make the slopes matter."""
    config = DecoderConfig(
        family="BloomForCausalLM",
        vocab_size=100,
        embed_dim=32,
        ffn_dim=40,
        num_layers=2,
        num_heads=6,
        num_kv_heads=2,
        head_dim=8,
        context_length=1024,
        layer_configs=(LayerConfig(rope=None),),
        alibi=KINDS[request.param],
        input_norm=True,
    )
    return Decoder(config, rngs=nnx.Rngs(0))


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 100, shape), jnp.int32)


@partial(jax.jit, static_argnums=(0, 4))
def _run(graph: Any, state: Any, arrays: Any, rest: Any, execution: Execution) -> jax.Array:
    decoder = nnx.merge(graph, state)
    embeddings, positions, mask = arrays
    hidden, _ = decoder(embeddings, positions, mask, execution=execution, **rest)
    return decoder.logits(hidden)


def run(
    decoder: Decoder, ids: Any, positions: Any, mask: Any, execution: Any = None, **rest: Any
) -> np.ndarray:
    arrays = decoder.embed(ids), jnp.broadcast_to(positions, ids.shape), mask
    return np.asarray(_run(*nnx.split(decoder), arrays, rest, execution or Execution()))


def run_alone(decoder: Decoder, ids: Any) -> np.ndarray:
    """Logits of one text [T] by itself."""
    tokens = jnp.arange(ids.shape[-1])
    return run(decoder, ids[None], tokens, causal_mask(jnp.ones((1, len(ids)), jnp.int32)))[0]


def test_slopes_are_those_of_transformers() -> None:
    pytest.importorskip("torch")
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    for heads in (*range(1, 20), 32, 40, 64, 112):
        slopes = compute_slopes(heads)
        np.testing.assert_allclose(slopes, _get_alibi_slopes(heads, "cpu"), rtol=1e-6)
        bias = build_mpt_alibi_tensor(heads, 3)[:, 0].numpy()
        np.testing.assert_allclose(bias, slopes[:, None] * np.array([-2, -1, 0]), rtol=1e-6)


def test_rounded_bias_is_that_of_falcon() -> None:
    """Up to what is the same for all keys of a query."""
    torch = pytest.importorskip("torch")
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    length, heads = 700, 5
    mask = torch.ones((1, length), dtype=torch.long)
    expected = build_alibi_tensor(mask, heads, torch.float32)[:, 0].numpy() / 8**0.5
    positions = jnp.arange(length)
    bias = AlibiBias(positions[None, -1:], (positions[None],), Alibi(8**-0.5, True), heads)
    found = jax.jit(lambda scores: bias.add_to(scores, 0))(jnp.zeros((1, heads, 1, length)))
    np.testing.assert_allclose(found[0, :, 0], expected - expected[:, -1:], rtol=1e-6, atol=1e-6)


def test_few_and_many_queries_see_the_same(decoder: Decoder) -> None:
    """Many go in chunks, each against the keys up to its end."""
    ids = draw(2 * MIN_QUERIES_PER_CHUNK + 7)
    whole = run_alone(decoder, ids)
    cache = encode_prefix(decoder, decoder.embed(ids[:-3]))
    last = run(
        decoder,
        ids[None, -3:],
        len(ids) - 3 + jnp.arange(3),
        causal_mask(jnp.ones((1, 3), jnp.int32)),
        prefix=cache.blocks,
    )
    np.testing.assert_allclose(last[0], whole[-3:], atol=2e-5)


def test_a_text_is_the_same_behind_a_shared_prefix_packed_and_padded(decoder: Decoder) -> None:
    prefix, first, second = draw(50), draw(3, 30)[1], draw(3, 12)[2]
    expected = [
        run_alone(decoder, jnp.concatenate([prefix, text]))[50:] for text in (first, second)
    ]
    padded = jnp.pad(decoder.embed(prefix), ((0, 14), (0, 0)))
    cache = encode_prefix(decoder, padded, 50)
    # padding in front, between and behind
    segments = jnp.asarray([[0] * 3 + [1] * 30 + [0] * 2 + [2] * 12 + [0] * 5])
    ids = jnp.concatenate([*map(jnp.asarray, ([7] * 3, first, [7] * 2, second, [7] * 5))])
    positions = jnp.concatenate(
        [jnp.zeros(3, int), 50 + jnp.arange(30), jnp.zeros(2, int), 50 + jnp.arange(17)]
    )
    found = run(decoder, ids[None], positions, causal_mask(segments), prefix=cache.blocks)[0]
    np.testing.assert_allclose(found[3:33], expected[0], atol=2e-5)
    np.testing.assert_allclose(found[35:47], expected[1], atol=2e-5)


def test_each_row_reads_its_own_of_several_prefixes(decoder: Decoder) -> None:
    prefixes, text = (draw(40), draw(2, 9)[1]), draw(3, 8)[2]
    caches = [encode_prefix(decoder, decoder.embed(one)) for one in prefixes]
    both = PrefixCaches.concatenate(caches)
    which = jnp.asarray([1, 0])
    positions = both.lengths[which][:, None] + jnp.arange(8)
    found = run(
        decoder,
        jnp.stack([text, text]),
        positions,
        causal_mask(jnp.ones((2, 8), jnp.int32)),
        prefix=both.blocks(which, 8),
        prefix_positions=both.positions,
    )
    for row, prefix in enumerate((prefixes[1], prefixes[0])):
        expected = run_alone(decoder, jnp.concatenate([prefix, text]))[len(prefix) :]
        np.testing.assert_allclose(found[row], expected, atol=2e-5)


def test_one_token_at_a_time_from_a_cache(decoder: Decoder) -> None:
    ids = draw(2, 12)
    expected = np.stack([run_alone(decoder, row) for row in ids])
    # the second row's slots begin at 2, where its first token is
    _, kv = decoder(
        decoder.embed(ids[:, :8]),
        jnp.arange(8)[None].repeat(2, 0),
        PackedRows(jnp.ones((2, 8), int)),
    )
    shifts = jnp.asarray([0, 2])
    place = lambda x: jnp.stack(  # noqa: E731
        [jnp.pad(x[0], ((0, 0), (0, 8), (0, 0))), jnp.pad(x[1], ((0, 0), (2, 6), (0, 0)))]
    )
    cache = jax.tree.map(place, kv)
    for step in range(8, 12):
        at = step + shifts
        slots = jnp.arange(16)
        mask = ((slots <= at[:, None]) & (slots >= shifts[:, None]))[:, None]
        embeddings, positions = decoder.embed(ids[:, step : step + 1]), jnp.full((2, 1), step)
        hidden, cache = decoder(embeddings, positions, mask, cache=cache, write_at=at)
        np.testing.assert_allclose(decoder.logits(hidden)[:, 0], expected[:, step], atol=2e-5)


def test_gradients_reach_a_soft_prompt_as_if_it_were_repeated(decoder: Decoder) -> None:
    soft = jnp.asarray(np.random.default_rng(1).normal(size=(6, 32)), jnp.float32)
    ids = decoder.embed(draw(10))

    def shared(soft: jax.Array) -> Any:
        cache = encode_prefix(decoder, soft)
        mask = causal_mask(jnp.ones((1, 10), jnp.int32))
        return decoder(ids[None], 6 + jnp.arange(10)[None], mask, prefix=cache.blocks)[0][0]

    def repeated(soft: jax.Array) -> Any:
        mask = causal_mask(jnp.ones((1, 16), jnp.int32))
        rows = jnp.concatenate([soft, ids])[None]
        return decoder(rows, jnp.arange(16)[None], mask)[0][0, 6:]

    @jax.jit
    def both(soft: jax.Array) -> Any:
        return [jax.vjp(one, soft)[1](jnp.ones((10, 32)))[0] for one in (shared, repeated)]

    found, expected = both(soft)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_kernels_that_know_no_bias_are_not_chosen(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_attention, "MAX_EINSUM_SCORES", 0)
    ids, rows = draw(1, 16), PackedRows(jnp.ones((1, 16), jnp.int32))
    found = run(decoder, ids, jnp.arange(16), rows, Execution("splash"))
    np.testing.assert_array_equal(found, run(decoder, ids, jnp.arange(16), rows))


def test_texts_may_be_longer_than_the_pretrained_ones(decoder: Decoder) -> None:
    assert decoder.config.with_context_length(10**5).context_length == 10**5
    with pytest.raises(ValueError, match="context_length 0"):
        decoder.config.with_context_length(0)


def test_padding_of_a_prefix_is_hidden_in_bfloat16(decoder: Decoder) -> None:
    """Its positions follow the prefix, so that its bias would be the highest."""
    prefix, text = draw(150), draw(2, 9)[1]
    embeddings = decoder.embed(prefix, jnp.bfloat16)
    padded = encode_prefix(decoder, jnp.pad(embeddings, ((0, 106), (0, 0))), 150)
    found, expected = (
        decoder(
            decoder.embed(text, jnp.bfloat16)[None],
            150 + jnp.arange(9)[None],
            causal_mask(jnp.ones((1, 9), jnp.int32)),
            prefix=cache.blocks,
        )[0].astype(jnp.float32)
        for cache in (padded, encode_prefix(decoder, embeddings))
    )
    np.testing.assert_allclose(found, expected, atol=0.05)
