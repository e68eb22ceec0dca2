"""Layers in a scan compute what they compute unrolled, and their parameters keep their names."""

from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.attention import PackedRows, causal_mask
from adapt_jax.decoders.config import DecoderConfig, LatentAttentionConfig, LayerConfig, MoEConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import INFERENCE, UNROLLED, Execution
from adapt_jax.decoders.layer_stack import Span, find_spans
from adapt_jax.decoders.prefix import SoftPrompt, encode_prefix
from adapt_jax.decoders.rope import Rope
from adapt_jax.decoders.transformer_layer import TransformerLayer
from adapt_jax.methods.lora import attach_lora
from adapt_jax.sampling.generate import generate
from adapt_jax.training.tuned_decoder import TunedDecoder

SHAPE: dict[str, Any] = dict(
    family="LlamaForCausalLM", vocab_size=40, embed_dim=16, ffn_dim=24, num_layers=5, num_heads=2,
    num_kv_heads=1, head_dim=8, context_length=512, tie_embeddings=True,
)  # fmt: skip
GLOBAL, LOCAL = (
    LayerConfig(Rope(theta=300.0)),
    LayerConfig(window=5),
)
CONFIGS = {
    "equal layers": DecoderConfig(**SHAPE),
    "a pattern of three, and some more": DecoderConfig(
        **SHAPE | {"num_layers": 8}, layer_configs=((LOCAL, LOCAL, GLOBAL) * 3)[:8], post_norm=True
    ),
    "shared keys and values": DecoderConfig(
        **SHAPE | {"num_layers": 8},
        layer_configs=(
            *(LOCAL, GLOBAL) * 2,
            *(LayerConfig(window=5, kv_shared_with=2), LayerConfig(kv_shared_with=3)) * 2,
        ),
        per_layer_embedding_dim=4,
        per_layer_embedding_vocab=40,
        layer_scale=True,
    ),
    "latent attention": DecoderConfig(
        **SHAPE | {"num_kv_heads": 2}, latent_attention=LatentAttentionConfig(10, None, 6, 5)
    ),
    "experts": DecoderConfig(
        **SHAPE, layer_configs=(LayerConfig(is_moe=True),), moe=MoEConfig(4, 2, 12)
    ),
}


def output_and_gradients(
    config: DecoderConfig,
    filter: Any,
    execution: Execution,
    tokens: int = 30,
    dora: bool = False,
):
    """Of a decoder behind a soft prompt of 7 tokens, with two packed rows; by parameter."""
    model = TunedDecoder(
        Decoder(config, rngs=nnx.Rngs(0)), SoftPrompt(nnx.Rngs(1).params.normal((7, 16)))
    )
    attach_lora(model.decoder, ["query"], 2, 4.0, nnx.Rngs(2), dora=dora)
    for layer in model.decoder.layers:  # B is zero at first, so that nothing would reach A
        factors = layer.attention.query.lora
        factors.b.set_value(jnp.ones_like(factors.b[...]))
    graph, trained, frozen = nnx.split(model, filter, ...)
    paths = [path for path, _ in nnx.to_flat_state(trained)]
    names = frozenset(path[1:] for path in paths if path[0] == "decoder")
    execution = Execution(**vars(execution) | {"trained": names})

    draws = np.random.default_rng(0)
    ids = jnp.asarray(draws.integers(0, 40, (2, tokens)))
    segments = jnp.asarray([[1] * 9 + [2] * (tokens - 13) + [0] * 4, [1] * tokens])
    rows = PackedRows(segments)
    wanted = jnp.asarray([3, 8, 20, tokens + 11, 2 * tokens - 1])  # no padding
    cotangent = jnp.asarray(draws.standard_normal((5, 16)), jnp.float32)

    def compute(trained: Any, frozen: Any) -> Any:
        model = nnx.merge(graph, trained, frozen)
        prefix = model.prefix(jnp.zeros(2, jnp.int32), execution=execution)
        hidden, _ = model.decoder(
            model.decoder.embed(ids),
            jnp.arange(tokens) - rows.starts + 9,
            rows,
            prefix=prefix.blocks,
            output_positions=wanted,
            keep_kv=False,
            execution=execution,
        )
        return (hidden * cotangent).sum()

    # less effort of the compiler makes the test fast
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    run = jax.jit(jax.value_and_grad(compute), compiler_options=options)
    output, gradients = run(trained, frozen)
    return output, {path: one.get_value() for path, one in nnx.to_flat_state(gradients)}


def assert_equal(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for path, gradient in expected[1].items():
        atol = 1e-5 * float(jnp.abs(gradient).max())
        np.testing.assert_allclose(found[1][path], gradient, atol=atol, rtol=0, err_msg=str(path))


FILTERS = {
    "soft prompt": nnx.PathContains("soft_prompt"),
    "low-rank factors": nnx.PathContains("lora"),
    "factors and magnitudes": nnx.PathContains("lora"),
    "all": nnx.Param,
    "feed-forward layers of two layers": lambda path, _: "ffn" in path and path[2] in (0, 1),
}


@pytest.mark.parametrize(
    ("config", "filter", "remat"),
    [
        ("equal layers", "soft prompt", "none"),
        ("equal layers", "low-rank factors", "layers"),
        ("equal layers", "factors and magnitudes", "layers"),
        ("equal layers", "feed-forward layers of two layers", "products"),
        ("a pattern of three, and some more", "all", "layers"),
        ("shared keys and values", "all", "none"),
        ("experts", "soft prompt", "layers"),
        ("latent attention", "all", "layers"),
    ],
)
def test_a_scan_has_the_output_and_gradients_of_unrolled_layers(config, filter, remat):
    dora = filter == "factors and magnitudes"
    run = partial(output_and_gradients, CONFIGS[config], FILTERS[filter], dora=dora)
    assert_equal(run(Execution(scan_layers=True, remat=remat)), run(Execution()))


@pytest.mark.parametrize("config", ["equal layers", "latent attention"])
def test_a_scan_with_splash_attention_has_the_gradients_of_unrolled_layers(config):
    run = partial(output_and_gradients, CONFIGS[config], nnx.Param, tokens=260)
    fused = Execution("splash", scan_layers=True, remat="layers")
    assert_equal(run(fused), run(Execution()))


@pytest.mark.parametrize("filter", ["soft prompt", "all"])
def test_what_is_compiled_hardly_grows_with_depth(filter):
    def count_equations(layers: int) -> int:
        config = DecoderConfig(**SHAPE | {"num_layers": layers})
        decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
        graph, weights = nnx.split(decoder)
        trained = frozenset() if filter == "soft prompt" else None
        execution = Execution(scan_layers=True, remat="layers", trained=trained)
        rows, positions = PackedRows(jnp.ones((2, 30), jnp.int32)), jnp.zeros((2, 30), jnp.int32)

        def total(weights: Any, x: Any) -> Any:
            decoder = nnx.merge(graph, weights)
            return decoder(x, positions, rows, keep_kv=False, execution=execution)[0].sum()

        argument = 1 if filter == "soft prompt" else 0
        x = jax.ShapeDtypeStruct((2, 30, 16), jnp.float32)
        return count(jax.make_jaxpr(jax.grad(total, argument))(weights, x).jaxpr)

    def count(jaxpr: Any) -> int:
        """Equations that compute something; choosing, stacking and slicing weights is left out."""
        cheap = ("broadcast_in_dim", "squeeze", "slice", "concatenate", "split")
        total = 0
        for equation in jaxpr.eqns:
            total += equation.primitive.name not in cheap
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                total += count(inner)
        return total

    assert count_equations(16) <= 1.1 * count_equations(8)


def test_spans_are_the_patterns_that_leave_the_fewest_layers():
    assert find_spans("aaaa") == [Span(0, 1, 4)]
    assert find_spans("aabaabaab") == [Span(0, 3, 3)]
    assert find_spans("dmmmm") == [Span(0, 1, 1), Span(1, 1, 4)]
    assert find_spans("abababcdcd") == [Span(0, 2, 3), Span(6, 2, 2)]
    assert find_spans("abc") == [Span(0, 1, 1), Span(1, 1, 1), Span(2, 1, 1)]
    assert find_spans("") == []


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_layers_that_are_traced_once_give_bitwise_the_same(config: DecoderConfig):
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(decoder)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 40)
    segments = jnp.asarray([[1] * 9, [1] * 5 + [0] * 4])

    @partial(jax.jit, static_argnums=0)
    def run(execution: Execution, weights: Any) -> Any:
        decoder = nnx.merge(graph, weights)
        prefix = encode_prefix(decoder, decoder.embed(tokens[0]), 7, execution)
        hidden, kept = decoder(
            decoder.embed(tokens),
            prefix.length + jnp.broadcast_to(jnp.arange(9), (2, 9)),
            causal_mask(segments),
            prefix=prefix.blocks,
            execution=execution,
        )
        return hidden, kept

    jax.tree.map(np.testing.assert_array_equal, run(INFERENCE, weights), run(UNROLLED, weights))


def test_a_generation_traces_equal_layers_once_for_each_program(tiny: Any, monkeypatch: Any):
    calls = []
    original = TransformerLayer.__call__

    def count(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        return original(self, *arguments, **options)

    monkeypatch.setattr(TransformerLayer, "__call__", count)
    jax.clear_caches()
    generate(tiny, ["t3 t4 t5"], max_new_tokens=3)
    # of the prefix, if there is one, the question, and the decoding step
    assert tiny.config.num_layers > 1 and len(calls) <= 3
