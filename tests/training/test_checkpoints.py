"""Checkpoints: what was saved comes back bitwise, where it was placed; only the newest stay."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.sharding import make_mesh, state_shardings
from adapt_jax.training.checkpoints import Checkpoints
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.step import TrainState
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError


def made_state(length=3, mesh=None, scale=1.0):
    """The state of training a soft prompt of this length."""
    values = np.random.default_rng(length).normal(0, scale, (length, 32))
    trainable = nnx.state(SoftPrompt(values))
    if mesh is not None:
        trainable = jax.device_put(trainable, state_shardings(trainable, mesh))
    return TrainState(trainable, optax.adamw(1e-2).init(trainable))


def steps_in(folder):
    """The steps whose checkpoints are on the disk."""
    return sorted(int(entry.name) for entry in (folder / "checkpoints").iterdir())


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype and ours.sharding == theirs.sharding
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sizes", [None, (2, 2, 2)])
def test_the_newest_checkpoint_comes_back_to_the_bit_and_to_its_place(tmp_path, sizes):
    mesh = make_mesh(*sizes) if sizes else None
    states = {step: made_state(mesh=mesh, scale=step) for step in (2, 4, 6)}
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"data": {"next": step, "share": step / 3}})
    assert steps_in(tmp_path) == [4, 6]
    with Checkpoints(tmp_path) as opened:
        found = opened.restore(made_state(mesh=mesh, scale=9.0))
    assert found is not None
    assert found.step == 6 and found.extra["data"] == {"next": 6, "share": 2.0}
    assert_same(found.state, states[6])


def test_the_best_step_stays_as_long_as_a_newer_one_names_it(tmp_path):
    states = {step: made_state(scale=step) for step in range(1, 6)}
    best = {1: 1, 2: 2, 3: 2, 4: 2, 5: 5}
    kept = []
    for step, state in states.items():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(made_state())
            checkpoints.save(step, state, {"best": best[step]})
        kept.append(steps_in(tmp_path))
        with Checkpoints(tmp_path) as checkpoints:
            found = checkpoints.restore(made_state())
        assert found is not None and found.step == step
        if best[step] == step:
            assert found.best is None
        else:
            assert_same(found.best, states[best[step]])
    assert kept[2:4] == [[2, 3], [2, 3, 4]] and 5 in kept[4]


def damage(folder, step, how):
    """Breaks the arrays of a saved step: a file cut in half, one flipped byte, or none left."""
    files = [path for path in (folder / "checkpoints" / str(step) / "state").rglob("*")]
    largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if how == "cut":
        largest.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content[len(content) // 2] ^= 0x40
        largest.write_bytes(content)
    else:
        shutil.rmtree(folder / "checkpoints" / str(step) / "state")


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, how):
    states = {step: made_state(length=40, scale=step) for step in (3, 5, 7)}
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"run": {}})
    damage(tmp_path, 7, how)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore(made_state(length=40), {})
        assert found is not None and found.step == 5
        assert_same(found.state, states[5])
        (line,) = caplog.messages
        assert "the checkpoint of step 7 is damaged" in line and "going on from step 5" in line
        checkpoints.save(7, states[7], {"run": {}})  # the run comes there again
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        found = checkpoints.restore(made_state(length=40), {})
        assert found is not None and found.step == 7
    for step in (3, 5, 7):
        damage(tmp_path, step, how)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.restore(made_state(length=40), {}) is None
    assert "going on from the beginning" in caplog.messages[-1]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path):
    small, large = made_state(length=4), made_state(length=4000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small, {})
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # stands in for a disk that is full after so many bytes
        with pytest.raises(UserError, match="could not be written .* step 1 is kept") as told:
            with Checkpoints(tmp_path) as checkpoints:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
                checkpoints.save(2, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(told.value)
    assert steps_in(tmp_path) == [1]
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(small)
    assert found is not None and found.step == 1
    assert_same(found.state, small)


def test_too_little_room_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(10**6, 10**6 - 999, 999)
    with pytest.raises(UserError, match="left: 1,156 bytes are needed, 999 are free.*none"):
        with Checkpoints(tmp_path) as checkpoints:
            monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
            checkpoints.save(1, made_state(length=3), {})
    assert steps_in(tmp_path) == []


def test_every_field_in_which_a_checkpoint_differs_is_named(tmp_path):
    there = {"seed": 0, "training.steps": 5, "method.init": "text", "same": [1, 2]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, made_state(length=3), {"run": there})
    here = there | {"seed": 1, "training.steps": 6, "more": True}
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError) as told:
            checkpoints.restore(made_state(length=4), here)
        with pytest.raises(UserError, match=r"\(3, 32\) there, \(4, 32\) here"):
            checkpoints.restore(made_state(length=4), there)
    line = str(told.value)
    assert "seed is 0 there, 1 here; training.steps is 5 there, 6 here;" in line
    assert "more is None there, True here" in line
    assert "same" not in line.replace("same settings", "") and "init" not in line
    assert steps_in(tmp_path) == [1] and not (tmp_path / "unreadable").exists()


def test_two_runs_never_share_a_folder(tmp_path):
    with Checkpoints(tmp_path):
        with pytest.raises(UserError, match="another process is writing there"):
            Checkpoints(tmp_path)
    Checkpoints(tmp_path).close()


def test_the_clock_decides_when_nobody_does(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.is_due(1)  # at once
        checkpoints.save(1, made_state(), {})
        checkpoints._files.wait()
        checkpoints._cost = 0.2
        now += 9.9
        assert not checkpoints.is_due(2)
        now += 0.2
        assert checkpoints.is_due(3)  # 0.2 seconds are 2 % of 10
    with Checkpoints(tmp_path / "counted", every=3) as checkpoints:
        assert [step for step in range(1, 8) if checkpoints.is_due(step)] == [3, 6]


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = made_state()
    expected = jax.tree.map(jnp.copy, state)
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 + 7, tree), donate_argnums=0
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        jax.block_until_ready(overwrite(state))
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(expected)
    assert found is not None
    assert_same(found.state, expected)


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(made_state()) is None


def test_frozen_weights_are_never_written(tiny, tmp_path):
    from adapt_jax.training.packing import TrainingExample

    model = TunedDecoder(tiny.decoder, SoftPrompt(np.zeros((3, 32))))
    config = TrainingConfig(steps=2, batch_size=1, row_length=64, checkpoint_every=1)
    examples = [TrainingExample("a", (0, 5, 6, 7), 2)]
    train(
        model,
        nnx.PathContains("soft_prompt"),
        TrainingData(examples),
        config,
        seed=0,
        folder=tmp_path,
    )
    written = (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").read_text()
    assert "soft_prompt" in written and "decoder" not in written
