"""The decoder itself: padding, packing, positions and cache change only what they should."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.activations import ACTIVATIONS, apply_activation
from adapt_jax.decoders.attention import attend, causal_mask
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.layer_stack import LayerStack
from adapt_jax.decoders.layers import matmul
from adapt_jax.decoders.rope import Rope
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.utils.cpu import MIN_QUERIES_PER_CHUNK

SHAPE: dict[str, Any] = dict(
    family="LlamaForCausalLM",
    vocab_size=32,
    embed_dim=16,
    ffn_dim=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    context_length=64,
)


@partial(jax.jit, static_argnums=0)
def forward(graphdef: Any, state: nnx.State, tokens: Any, positions: Any, mask: Any) -> jax.Array:
    decoder = nnx.merge(graphdef, state)
    return decoder.logits(decoder(decoder.embed(tokens), positions, mask)[0])


def run(decoder: Decoder, tokens: Any, positions: Any, segments: Any) -> np.ndarray:
    """Logits of rows of tokens, [B, T, V]."""
    tokens, positions, segments = (jnp.asarray(x, jnp.int32) for x in (tokens, positions, segments))
    return np.asarray(forward(*nnx.split(decoder), tokens, positions, causal_mask(segments)))


@partial(jax.jit, static_argnums=0)
def cached(
    graphdef: Any, state: nnx.State, tokens: Any, positions: Any, mask: Any, cache: Any, at: Any
) -> tuple[jax.Array, Any]:
    """Logits [B, T, V] of tokens written into a cache, and the cache."""
    decoder = nnx.merge(graphdef, state)
    embeddings = decoder.embed(tokens)
    hidden, cache = decoder(embeddings, positions, mask, cache=cache, write_at=at)
    return decoder.logits(hidden), cache


def draw(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 320, length)


@pytest.fixture(scope="module")
def decoder(tiny: PretrainedDecoder) -> Decoder:
    return tiny.decoder


def test_logits_do_not_move_with_the_amount_of_padding(decoder: Decoder) -> None:
    tokens = draw(11)
    alone = run(decoder, tokens[None], np.arange(11)[None], np.ones((1, 11)))[0]
    for left, right in [(0, 5), (7, 0), (3, 9)]:
        real = np.pad(np.ones(11), (left, right))
        positions = np.maximum(np.cumsum(real) - 1, 0)
        padded = run(decoder, np.pad(tokens, (left, right))[None], positions[None], real[None])[0]
        assert np.isfinite(padded).all()  # a row of padding sees nothing, and is no NaN
        np.testing.assert_allclose(padded[left : left + 11], alone, atol=1e-5)


def test_packed_segments_do_not_see_each_other(decoder: Decoder) -> None:
    first, second = draw(7, seed=1), draw(9, seed=2)
    packed = run(
        decoder,
        np.concatenate([first, second, [0, 0]])[None],
        np.concatenate([np.arange(7), np.arange(9), [0, 0]])[None],
        np.repeat([1, 2, 0], [7, 9, 2])[None],
    )[0]
    for start, tokens in ((0, first), (7, second)):
        size = len(tokens)
        alone = run(decoder, tokens[None], np.arange(size)[None], np.ones((1, size)))[0]
        np.testing.assert_allclose(packed[start : start + size], alone, atol=1e-5)


def test_no_token_sees_what_follows(decoder: Decoder) -> None:
    tokens = draw(12)
    changed = tokens.copy()
    changed[8:] = draw(4, seed=9)
    one, other = (
        run(decoder, x[None], np.arange(12)[None], np.ones((1, 12)))[0] for x in (tokens, changed)
    )
    np.testing.assert_array_equal(one[:8], other[:8])
    assert np.abs(one[8:] - other[8:]).max() > 1e-2


def test_cached_steps_equal_the_whole_row_when_rows_stand_at_different_places(
    decoder: Decoder,
) -> None:
    rows, slots, config = [draw(5, seed=3), draw(9, seed=4)], 16, decoder.config
    whole = [run(decoder, r[None], np.arange(len(r))[None], np.ones((1, len(r))))[0] for r in rows]
    cache = [
        (jnp.zeros((2, config.num_kv_heads, slots, config.head_dim)),) * 2
        for _ in range(config.num_layers)
    ]
    # Row 0 is three tokens ahead of row 1 from the start: its first three are prefilled.
    prompt = np.zeros((2, 3), np.int32)
    prompt[0] = rows[0][:3]
    seen = (jnp.arange(slots) <= jnp.arange(3)[:, None])[None].repeat(2, axis=0)
    split = nnx.split(decoder)
    positions, start = jnp.broadcast_to(jnp.arange(3), (2, 3)), jnp.zeros(2, jnp.int32)
    logits, cache = cached(*split, jnp.asarray(prompt), positions, seen, cache, start)
    np.testing.assert_allclose(logits[0], whole[0][:3], atol=1e-5)
    at = np.array([3, 0])
    for _ in range(2):
        fresh = jnp.asarray([row[place] for row, place in zip(rows, at, strict=True)])[:, None]
        place = jnp.asarray(at)
        seen = (jnp.arange(slots) <= place[:, None])[:, None]
        logits, cache = cached(*split, fresh, place[:, None], seen, cache, place)
        for row in range(2):
            np.testing.assert_allclose(logits[row, 0], whole[row][at[row]], atol=1e-5)
        at += 1


def test_cache_slots_beyond_a_row_are_never_read(decoder: Decoder) -> None:
    config, tokens = decoder.config, draw(6)
    shape = (1, config.num_kv_heads, 10, config.head_dim)
    mask = (jnp.arange(10) <= jnp.arange(6)[:, None])[None]
    results = []
    for rubbish in (0.0, 1e4):
        cache = [(jnp.full(shape, rubbish),) * 2] * config.num_layers
        row, start = jnp.asarray(tokens)[None], jnp.zeros(1, jnp.int32)
        logits, _ = cached(*nnx.split(decoder), row, jnp.arange(6)[None], mask, cache, start)
        results.append(np.asarray(logits))
    np.testing.assert_array_equal(*results)


def test_positions_are_relative(decoder: Decoder) -> None:
    tokens, ones = draw(12)[None], np.ones((1, 12))
    here = run(decoder, tokens, np.arange(12)[None], ones)
    there = run(decoder, tokens, np.arange(12)[None] + 300, ones)
    np.testing.assert_allclose(here, there, atol=1e-3)
    stretched = run(decoder, tokens, np.arange(12)[None] * 3, ones)
    assert np.abs(here - stretched).max() > 1e-2


def test_bfloat16_compute_keeps_float32_weights(decoder: Decoder) -> None:
    tokens, positions = jnp.asarray(draw(12))[None], jnp.arange(12)[None]
    mask = causal_mask(jnp.ones((1, 12), jnp.int32))
    narrow, _ = decoder(decoder.embed(tokens, jnp.bfloat16), positions, mask)
    wide, _ = decoder(decoder.embed(tokens), positions, mask)
    assert narrow.dtype == jnp.bfloat16 and decoder.logits(narrow).dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(narrow, np.float32), wide, atol=0.3)


def test_untied_decoder_has_an_output_and_a_tied_one_shares_its_embedding() -> None:
    tied = Decoder(DecoderConfig(**SHAPE, tie_embeddings=True), rngs=nnx.Rngs(0))
    untied = Decoder(DecoderConfig(**SHAPE), rngs=nnx.Rngs(0))
    hidden = jax.random.normal(jax.random.key(1), (3, 16))
    np.testing.assert_allclose(tied.logits(hidden), hidden @ tied.embedding[...].T, atol=1e-5)
    assert untied.output is not None
    np.testing.assert_allclose(
        untied.logits(hidden), hidden @ untied.output.kernel[...].T, atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_heads": 3, "num_kv_heads": 2}, "not a multiple"),
        ({"head_dim": 7}, "odd"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DecoderConfig(**(SHAPE | change))


def test_chunked_attention_equals_whole_attention() -> None:
    rows, length, prefix = 2, 4 * MIN_QUERIES_PER_CHUNK + 5, 6
    keys = jax.random.split(jax.random.key(0), 5)
    queries = jax.random.normal(keys[0], (rows, length, 4, 8))
    own = [jax.random.normal(key, (rows, length, 2, 8)) for key in keys[1:3]]
    front = [jax.random.normal(key, (prefix, 2, 8)) for key in keys[3:]]
    # Rows packed differently, with padding at either end.
    segments = np.repeat([[0, 1, 2, 3, 0]], rows, axis=0).repeat([3, 9, length - 40, 20, 8], axis=1)
    segments[1] = np.roll(segments[1], 11)
    mask, seen = causal_mask(jnp.asarray(segments)), jnp.arange(prefix) < 4
    headed = [[jnp.swapaxes(x, -3, -2) for x in block] for block in (front, own)]
    found = attend(queries, [(*headed[0], seen), (*headed[1], mask)])
    scores = []
    for block, allowed in ((front, seen), (own, mask[:, None])):
        spread = jnp.repeat(jnp.broadcast_to(block[0], (rows, *block[0].shape[-3:])), 2, axis=2)
        score = jnp.einsum("btnh,bsnh->bnts", queries, spread) * 8**-0.5
        scores.append(jnp.where(allowed, score, -jnp.inf))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    values = [
        jnp.repeat(jnp.broadcast_to(b[1], (rows, *b[1].shape[-3:])), 2, 2) for b in (front, own)
    ]
    expected = jnp.einsum("bnts,bsnh->btnh", weights, jnp.concatenate(values, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def plain(x: Any, kernel: Any) -> Any:
    """A product with JAX's own derivative."""
    return jnp.einsum("...i,oi->...o", x, kernel)


@pytest.mark.parametrize("leading", [(), (5,), (3, 5)])
def test_gradients_of_a_product_are_those_of_matmul_for_one_kernel_and_for_several(leading) -> None:
    draws = np.random.default_rng(0)
    x, kernels, y = (
        draws.standard_normal(size).astype(np.float32)
        for size in ((*leading, 6), (2, 4, 6), (*leading, 4))
    )

    def gradients(multiply: Any) -> Any:
        one = jax.grad(lambda x, kernel: (multiply(x, kernel) * y).sum(), argnums=(0, 1))
        return jax.vmap(one, in_axes=(None, 0))(x, kernels)

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), *map(gradients, (matmul, plain)))


def test_a_kernel_gradient_has_the_narrower_factor_on_the_left_and_a_frozen_one_is_absent() -> None:
    """XLA transposes the left factor on a CPU, so it should be the smaller one."""

    def products(multiply: Any, sizes: tuple[int, int], of: int) -> list[str]:
        x, kernel = jnp.ones((5, sizes[0])), jnp.ones(sizes[::-1])
        gradient = jax.jit(jax.grad(lambda x, kernel: (multiply(x, kernel) ** 2).sum(), of))
        lines = gradient.lower(x, kernel).as_text().splitlines()
        return [line.split(" : (")[1].split(",")[0] for line in lines if "dot_general" in line]

    for sizes in ((6, 4), (4, 6)):
        forward, found = products(matmul, sizes, of=1)
        assert (forward, found) == (f"tensor<5x{sizes[0]}xf32>", "tensor<5x4xf32>")
        assert products(matmul, sizes, of=0)[1:] == [f"tensor<5x{sizes[1]}xf32>"]
    assert products(plain, (4, 6), of=1)[1] == "tensor<5x6xf32>"  # JAX's own: the wider


def test_the_last_layer_computes_little_for_tokens_whose_output_is_not_wanted() -> None:
    """Little is its queries, keys, values and attention weights."""
    config = DecoderConfig(**(SHAPE | {"ffn_dim": 512, "num_layers": 2}))
    graph, state = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    places = jnp.broadcast_to(jnp.arange(32), (4, 32))
    mask = causal_mask(jnp.ones((4, 32), jnp.int32))

    def count_flops(wanted: Any) -> float:
        def loss(x: Any, state: Any) -> Any:
            return nnx.merge(graph, state)(x, places, mask, output_positions=wanted)[0].sum()

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((4, 32, 16)), state).compile()
        return compiled.cost_analysis()["flops"]

    # forward and backward pass of one token through the feed-forward layer
    each = 3 * 16 * 512 * 2 * 2
    saved = count_flops(None) - count_flops(jnp.arange(0, 128, 8))
    assert saved > (128 - 16) * each


def test_rotary_angles_are_computed_once_for_all_layers_forward_and_back() -> None:
    config = DecoderConfig(**(SHAPE | {"num_layers": 3, "num_heads": 8}))
    graph, state = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    mask = causal_mask(jnp.ones((4, 32), jnp.int32))

    def loss(x: Any, places: Any, state: Any) -> Any:
        return nnx.merge(graph, state)(x, places, mask)[0].sum()

    places = jnp.broadcast_to(jnp.arange(32), (4, 32))  # traced, as those of packed rows are
    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((4, 32, 16)), places, state).compile()
    found = [compiled.as_text().count(f" {name}(") for name in ("cosine", "sine")]
    assert found == [1, 1]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_saves_only_its_inputs_for_the_backward_pass(name: str) -> None:
    x, by = np.random.default_rng(0).normal(size=(2, 3, 64)).astype(np.float32)
    plain = ACTIVATIONS[name]
    for ours, theirs, given in (
        (partial(apply_activation, name), plain, (x,)),
        (partial(apply_activation, name), lambda x, by: plain(x) * by, (x, by)),
    ):
        value, back = jax.vjp(ours, *given)
        expected, back_plain = jax.vjp(theirs, *given)
        assert len(jax.tree.leaves(back)) == len(given)
        # the plain form keeps more, but for tanh since JAX 0.12, which keeps its value alone
        assert len(given) < len(jax.tree.leaves(back_plain)) or (name, len(given)) == ("tanh", 1)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
        for one, other in zip(back(expected), back_plain(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_is_traced_has_the_order_of_the_layers_in_every_process(monkeypatch: Any):
    """In the order of a set, a new process would not find the code that another one compiled."""
    windows = [3, 9, 5, 8, 2, 7, 4, 6]
    layers = tuple(LayerConfig(Rope(theta=10.0 * one), window=one) for one in windows)
    config = DecoderConfig(**SHAPE | {"num_layers": 8}, layer_configs=layers)
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    run_layers, found = LayerStack.run, []

    def look(self: LayerStack, *arguments: Any) -> Any:
        found.append(self.inputs)
        return run_layers(self, *arguments)

    monkeypatch.setattr(LayerStack, "run", look)
    tokens = jnp.ones((1, 12), jnp.int32)
    jax.eval_shape(
        lambda: decoder(decoder.embed(tokens), jnp.arange(12)[None], causal_mask(tokens))[0]
    )
    [inputs] = found
    assert [window for window, _ in inputs.masks] == windows
    assert [rope.theta for rope, _ in inputs.cos_sin] == [10.0 * one for one in windows]
