"""The chunked loss: sums and gradients equal to those of all logits at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.training import chunk_loss
from adapt_jax.training import cross_entropy as module
from adapt_jax.training.chunk_loss import ChunkSizes, Objective
from adapt_jax.training.cross_entropy import cross_entropy

VOCAB, EMBED, TARGETS = 50, 8, 150


def made(tied, **fields):
    sizes = (VOCAB, EMBED, 16, 1, 2, 1, 4, 64)
    config = DecoderConfig("LlamaForCausalLM", *sizes, tie_embeddings=tied, **fields)
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


@pytest.fixture(params=["one CPU", "other"])
def small_chunks(request, monkeypatch):
    """Three chunks, the last one not full; on a CPU two blocks that overlap."""
    monkeypatch.setattr(module, "ONE_CPU", ChunkSizes(64, 32, 2**20))
    monkeypatch.setattr(module, "OTHER", ChunkSizes(64, 2**20, 2**20))
    monkeypatch.setattr(chunk_loss, "STRIDE", 32)
    if request.param == "one CPU":
        monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    return request.param


def sums_and_gradients(function, case, objective):
    """Of the loss, and gradients of parameters and hidden states."""
    decoder, hidden, ids, weights = case
    graph, params = nnx.split(decoder)

    def loss(params, hidden):
        return function(nnx.merge(graph, params), hidden, ids, weights, objective)

    compute = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    sums, gradients = compute(params, hidden)
    return sums, jax.tree.leaves(gradients), lambda: jax.jit(loss)(params, hidden)


@functools.cache
def expected_of(tied, objective, capped):
    """What all logits at once give; the same for every way to cut them."""
    return sums_and_gradients(at_once, made(tied, **dict(capped)), objective)[:2]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("objective", [Objective(), Objective(0.1, 1e-2)])
@pytest.mark.parametrize("capped", [(), (("logit_softcap", 3.0), ("logit_divisor", 2.0))])
def test_chunks_give_the_sums_and_gradients_of_all_logits_at_once(
    tied, objective, capped, small_chunks
):
    expected_sums, expected = expected_of(tied, objective, capped)
    case = made(tied, **dict(capped))
    sums, found, compute_alone = sums_and_gradients(cross_entropy, case, objective)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    np.testing.assert_allclose(compute_alone(), expected_sums, rtol=1e-5)  # without gradients
    assert float(sums[1]) > 0 and max(float(jnp.abs(g).max()) for g in expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_loss_without_gradients_and_one_of_frozen_output_weights_make_no_more_products(
    small_chunks,
):
    decoder, hidden, ids, weights = made(tied=True)
    graph, params = nnx.split(decoder)

    def loss(params, hidden):
        return cross_entropy(nnx.merge(graph, params), hidden, ids, weights)[0]

    def products(function):
        return jax.jit(function).lower(params, hidden).compile().as_text().count(" dot(")

    found = products(loss), products(jax.grad(loss, 1)), products(jax.grad(loss, (0, 1)))
    assert found == (1, 2, 3)  # logits, the gradient of hidden states, that of the output


def test_what_a_nearly_certain_target_leaves_to_learn_survives_bfloat16(small_chunks):
    """1 - p of it is summed from what the others have; p rounded to bfloat16 would leave none."""
    decoder, _, ids, _ = made(tied=True)
    table = decoder.embedding[...].astype(jnp.bfloat16).astype(jnp.float32)
    decoder.embedding[...] = table
    hidden = 32 * table[ids]
    certain = jax.nn.softmax(hidden @ table.T)[jnp.arange(TARGETS), ids] > 0.97
    graph, params = nnx.split(decoder)

    def hidden_grad(dtype):
        def loss(hidden):
            taken = hidden.astype(dtype), ids, certain.astype(jnp.float32)
            return cross_entropy(nnx.merge(graph, params), *taken)[0]

        return jax.grad(loss)(hidden)

    exact, rounded = hidden_grad(jnp.float32), hidden_grad(jnp.bfloat16)
    assert 40 < certain.sum() and 1e-3 < jnp.abs(exact).max() < 0.02
    assert float(jnp.abs(exact - rounded).max()) < 0.02 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("trains_output", [True, False])
@pytest.mark.parametrize("sizes", [module.ONE_CPU, module.OTHER])
def test_chunks_are_bounded_and_hold_all_targets(sizes, trains_output):
    for targets, vocabulary in ((1, 320), (2304, 32_000), (100_000, 256_000), (4096, 1024)):
        size = sizes.targets_per_chunk(targets, vocabulary, trains_output)
        width = sizes.entries_per_block(vocabulary)
        assert size % chunk_loss.STRIDE == 0 and size <= sizes.max_targets
        assert 0 < width <= min(vocabulary, max(sizes.max_entries, chunk_loss.STRIDE))
        at_once = size * (vocabulary if trains_output else width)
        assert size == chunk_loss.STRIDE or at_once <= sizes.max_waiting
        chunks = module._to_chunks(jnp.arange(targets), size)
        assert sorted(chunks.reshape(-1).tolist())[-targets:] == list(range(targets))
