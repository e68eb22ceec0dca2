"""Devices that each sum the loss of their own rows get the loss and gradients of one device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import Execution
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.sharding import batch_sharding, make_mesh, state_shardings
from adapt_jax.training import cross_entropy
from adapt_jax.training.chunk_loss import ChunkSizes, Objective
from adapt_jax.training.packing import Batch
from adapt_jax.training.tuned_decoder import TunedDecoder, spread_targets

CONFIG = DecoderConfig("LlamaForCausalLM", 48, 16, 24, 1, 2, 1, 8, 512, tie_embeddings=True)
ROWS, TOKENS, TARGETS = 4, 150, 24


def make_batch() -> Batch:
    """All targets but one are in one device's rows; two entries are padding."""
    draws = np.random.default_rng(0)
    tokens = draws.integers(0, 48, (ROWS, TOKENS))
    index = np.r_[3 * TOKENS, draws.choice(np.arange(5, 290), TARGETS - 3, False), 0, 0]
    ids = np.r_[draws.integers(0, 48, TARGETS - 2), 0, 0]
    weights = np.r_[draws.uniform(0.5, 1.5, TARGETS - 2), 0, 0].astype(np.float32)
    positions = np.broadcast_to(np.arange(TOKENS), tokens.shape)
    arrays = (tokens, positions, np.ones_like(tokens), index, ids)
    return Batch(*(jnp.asarray(one, jnp.int32) for one in arrays), jnp.asarray(weights))


@pytest.mark.parametrize("trained", ["soft_prompt", "all"])
def test_local_targets_change_no_loss_and_no_gradient(trained, monkeypatch):
    monkeypatch.setattr(cross_entropy, "OTHER", ChunkSizes(64, 1 << 20, 1 << 20))
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    soft_prompt = SoftPrompt(nnx.Rngs(1).params.normal((3, 16)))
    model = TunedDecoder(Decoder(CONFIG, rngs=nnx.Rngs(0)), soft_prompt)
    filter = nnx.Param if trained == "all" else nnx.PathContains("soft_prompt")
    graph, *states = nnx.split(model, filter, ...)
    objective = Objective(label_smoothing=0.1, z_loss=0.01)

    def run(execution: Execution, states: Any, batch: Batch) -> Any:
        def loss(trained: Any, frozen: Any, batch: Batch) -> Any:
            model = nnx.merge(graph, trained, frozen)
            prefix = model.prefix(jnp.zeros(1, jnp.int32))
            return model.loss(batch, prefix, objective=objective, execution=execution)

        options = {"xla_backend_optimization_level": 0}
        compute = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
        return compute(*states, batch)

    expected = run(Execution(), states, make_batch())
    placed = [jax.device_put(one, state_shardings(one, mesh)) for one in states]
    batch = jax.device_put(make_batch(), batch_sharding(mesh))
    found = run(Execution(mesh=mesh, local_targets=True), placed, batch)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)


def test_every_target_keeps_its_id_and_weight():
    batch = make_batch()
    ids, weights = spread_targets(batch)
    real = np.asarray(batch.target_weight) > 0
    index = np.asarray(batch.target_index)[real]
    np.testing.assert_array_equal(ids[index], batch.target_id[real])
    np.testing.assert_array_equal(weights[index], batch.target_weight[real])
    assert float(weights.sum()) == pytest.approx(float(batch.target_weight.sum()))
