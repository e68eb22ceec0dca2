"""The chunked loss: sums and gradients equal to those of all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.tuning import cross_entropy as module
from adapt_jax.tuning.cross_entropy import Objective, cross_entropy

VOCAB, EMBED, TARGETS = 50, 8, 150


def made(tied):
    sizes = (VOCAB, EMBED, 16, 1, 2, 1, 4, 64)
    config = DecoderConfig("LlamaForCausalLM", *sizes, tie_embeddings=tied)
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    draws = np.random.default_rng(0)
    hidden = jnp.asarray(draws.normal(0, 2, (TARGETS, EMBED)), jnp.float32)
    ids = jnp.asarray(draws.integers(0, VOCAB, TARGETS))
    weights = jnp.asarray(draws.uniform(0, 2, TARGETS) * (draws.random(TARGETS) < 0.9), jnp.float32)
    return decoder, hidden, ids, weights


def at_once(decoder, hidden, ids, weights, objective):
    """Written down as the papers do: a target distribution, and the log of the denominator."""
    logits = decoder.logits(hidden)
    smooth = objective.label_smoothing
    aim = (1 - smooth) * jax.nn.one_hot(ids, VOCAB) + smooth / VOCAB
    nats = -(aim * jax.nn.log_softmax(logits)).sum(-1)
    nats += objective.z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return (nats * weights).sum(), ((logits.argmax(-1) == ids) * weights).sum()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("objective", [Objective(), Objective(0.1, 1e-2)])
def test_chunks_give_the_sums_and_gradients_of_all_logits_at_once(tied, objective, monkeypatch):
    monkeypatch.setattr(module, "_size", lambda *_: 64)  # three chunks, the last one not full
    decoder, hidden, ids, weights = made(tied)
    graph, params = nnx.split(decoder)

    def run(function):
        def loss(params, hidden):
            return function(nnx.merge(graph, params), hidden, ids, weights, objective)

        (nats, right), gradients = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, hidden)  # fmt: skip
        alone = jax.jit(loss)(params, hidden)  # without gradients
        return (nats, right, *alone), jax.tree.leaves(gradients)

    (sums, found), (expected_sums, expected) = run(cross_entropy), run(at_once)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    assert float(sums[1]) > 0 and max(float(jnp.abs(g).max()) for g in expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_frozen_output_weights_get_no_gradient_and_no_product(monkeypatch):
    monkeypatch.setattr(module, "_size", lambda *_: 64)
    decoder, hidden, ids, weights = made(tied=True)

    def loss(decoder, hidden):
        return cross_entropy(decoder, hidden, ids, weights)[0]

    def products(argnums):
        graph, params = nnx.split(decoder)
        merged = lambda params, hidden: loss(nnx.merge(graph, params), hidden)  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(merged, argnums))(params, hidden)).count("dot_general")

    assert (products(1), products((0, 1))) == (2, 3)  # logits and one gradient, or both


def test_chunks_are_bounded_and_hold_all_targets():
    for targets, vocabulary in ((1, 320), (2304, 32_000), (100_000, 256_000), (4096, 1024)):
        size = module._size(targets, vocabulary)
        assert size % module.STRIDE == 0
        assert size == module.STRIDE or size * vocabulary <= 3 * 2**22
        parts = module._chunked(jnp.arange(targets), size)
        assert sorted(parts.reshape(-1).tolist())[-targets:] == list(range(targets))
