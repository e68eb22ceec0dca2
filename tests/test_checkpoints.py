"""Checkpoints: what was saved comes back to the bit, to where it lay, and only the newest stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.sharding import make_mesh, shardings
from adapt_jax.errors import UserError
from adapt_jax.tuning.checkpoints import Checkpoints
from adapt_jax.tuning.losses import TunedDecoder
from adapt_jax.tuning.optimizers import TrainingConfig
from adapt_jax.tuning.step import TrainState
from adapt_jax.tuning.trainer import train


def made_state(length=3, mesh=None, scale=1.0):
    """The state of training a soft prompt of this length."""
    values = np.random.default_rng(length).normal(0, scale, (length, 32))
    trainable = nnx.state(SoftPrompt(values))
    if mesh is not None:
        trainable = jax.device_put(trainable, shardings(trainable, mesh))
    return TrainState(trainable, optax.adamw(1e-2).init(trainable))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype and ours.sharding == theirs.sharding
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sizes", [None, (2, 2, 2)])
def test_the_newest_checkpoint_comes_back_to_the_bit_and_to_its_place(tmp_path, sizes):
    mesh = make_mesh(*sizes) if sizes else None
    states = {step: made_state(mesh=mesh, scale=step) for step in (2, 4, 6)}
    checkpoints = Checkpoints(tmp_path)
    for step, state in states.items():
        checkpoints.save(step, state, {"data": {"next": step}, "losses": [0.1, step / 3]})
    checkpoints.close()
    kept = sorted(int(entry.name) for entry in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 6]

    opened = Checkpoints(tmp_path)
    found = opened.restore(made_state(mesh=mesh, scale=9.0))
    opened.close()
    assert found is not None
    step, state, extra = found
    assert step == 6 and extra == {"data": {"next": 6}, "losses": [0.1, 2.0]}
    assert_same(state, states[6])


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = made_state()
    expected = jax.tree.map(jnp.copy, state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 + 7, tree), donate_argnums=0
    )
    jax.block_until_ready(overwrite(state))
    checkpoints.close()
    opened = Checkpoints(tmp_path)
    found = opened.restore(expected)
    opened.close()
    assert found is not None
    assert_same(found[1], expected)


def test_an_empty_folder_restores_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(made_state()) is None
    checkpoints.close()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, made_state(length=3), {})
    checkpoints.close()
    opened = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"step 1 is a checkpoint of another run .*\(3, 32\) there"):
        opened.restore(made_state(length=4))
    opened.close()


def test_frozen_weights_are_never_written(tiny, tmp_path):
    from adapt_jax.tuning.batches import TrainingExample

    model = TunedDecoder(tiny.decoder, SoftPrompt(np.zeros((3, 32))))
    config = TrainingConfig(steps=2, batch_size=1, row_length=64, checkpoint_every=1)
    examples = [TrainingExample("a", (0, 5, 6, 7), 2)]
    train(model, nnx.PathContains("soft_prompt"), examples, config, seed=0, folder=tmp_path)
    written = (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").read_text()
    assert "soft_prompt" in written and "decoder" not in written
