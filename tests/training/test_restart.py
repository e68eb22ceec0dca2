"""A run survives its process: killed or asked to stop anywhere, it ends as if nothing had been."""

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx
from helpers import SHORT, write_task
from training_cases import CONFIG, leaves, made_examples
from xla_flags import ONE_DEVICE

from adapt_jax.cli.main import main
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.training.metrics_log import MetricsLog, read_rows
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.interruption import Interrupted
from benchmarks.restarts import compare_killed, tuning


def test_killed_at_random_moments_it_ends_with_the_same_bits(
    shallow_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XLA_FLAGS", ONE_DEVICE)
    training = {"steps": 40, "batch_size": 4, "warmup_steps": 5, "checkpoint_every": 7}
    run = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "method": {"name": "fine_tuning", "training": training} | SHORT,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    told = compare_killed(tuning(tmp_path / "run.yaml"), 3, seed=5)
    assert told["kills"] == 3 and not told["different"], told
    assert told["files"] >= 4  # adaptation.json, weights, metrics.jsonl


def trained(shallow, folder=None, on_step=None, mesh=None, **changes):
    """Losses and parameters of a short fine-tuning."""
    model = TunedDecoder(nnx.clone(shallow.decoder))
    config = CONFIG.model_copy(update=changes)
    result = train(
        model,
        nnx.Param,
        TrainingData(made_examples()),
        config,
        seed=0,
        folder=folder,
        on_step=on_step,
        mesh=mesh,
    )
    return result.losses, leaves(model)


@pytest.fixture(scope="module")
def uninterrupted(shallow):
    """Losses and parameters of the same fine-tuning, left alone."""
    return trained(shallow)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_leaves_and_goes_on(shallow, tmp_path, uninterrupted, number):
    def ask(step, steps, note):
        if step == 4:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 5 of 8, saved in"):
        trained(shallow, tmp_path, ask, checkpoint_every=100)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 5
    seen = []
    losses, found = trained(
        shallow, tmp_path, lambda step, *_: seen.append(step), checkpoint_every=100
    )
    expected_losses, expected = uninterrupted
    assert seen == [5, 6, 7, 8] and losses == expected_losses
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path])


def test_the_command_line_leaves_with_75_when_it_may_be_started_again(monkeypatch, capsys):
    def send_sigterm(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("adapt_jax.comparison.tune.tune", send_sigterm)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["tune", "run.yaml"]) == 75
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err.startswith("stopped by SIGTERM")
    assert main(["tune", "--help"]) == 0
    assert "exits with code 75" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_on_other_devices_it_goes_on_with_the_same_data(shallow, tmp_path, uninterrupted):
    def stop(step, steps, note):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(shallow, tmp_path, stop, checkpoint_every=3)
    mesh = make_mesh(2, 2, 2)
    losses, found = trained(shallow, tmp_path, mesh=mesh, checkpoint_every=3)
    expected_losses, expected = uninterrupted
    assert losses[:3] == expected_losses[:3]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    rows = read_rows(tmp_path / "metrics.jsonl")
    trained(shallow, tmp_path / "alone", checkpoint_every=0)
    alone = read_rows(tmp_path / "alone" / "metrics.jsonl")
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in alone]
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[path], atol=2e-3)


def test_when_it_saves_changes_nothing_and_a_finished_run_stays(shallow, tmp_path, uninterrupted):
    expected_losses, expected = uninterrupted
    for every in (1, None):
        losses, found = trained(shallow, tmp_path / str(every), checkpoint_every=every)
        assert losses == expected_losses
        for path, leaf in found.items():
            np.testing.assert_array_equal(leaf, expected[path])
    before = (tmp_path / "1" / "metrics.jsonl").read_bytes()
    losses, found = trained(shallow, tmp_path / "1", lambda *_: pytest.fail("trained again"))
    assert losses == expected_losses
    assert (tmp_path / "1" / "metrics.jsonl").read_bytes() == before


def test_a_log_that_lost_rows_is_reported(shallow, tmp_path, caplog):
    trained(shallow, tmp_path, checkpoint_every=4)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    for left in (3, 0):
        path.write_text("".join(whole[:left]))
        caplog.clear()
        losses, _ = trained(shallow, tmp_path, checkpoint_every=4)
        [line] = caplog.messages
        assert f"metrics.jsonl: {8 - left} of the 8 steps before the checkpoint have no row" in line
        assert len(losses) == left


def test_other_data_weights_or_settings_are_refused_by_name(shallow, tmp_path):
    trained(shallow, tmp_path, checkpoint_every=4)
    with pytest.raises(UserError) as told:
        trained(shallow, tmp_path, learning_rate=0.5, steps=9, optimizer="lion")
    line = str(told.value).partition("another run: ")[2]
    for field in ("learning_rate is 0.01 there, 0.5 here", "steps is 8 there, 9 here", "optimizer"):
        assert f"training.{field}" in line
    assert "weights" not in line and "examples" not in line
    other = TunedDecoder(nnx.clone(shallow.decoder))
    other.decoder.norm.scale[...] = other.decoder.norm.scale[...] * 2
    with pytest.raises(UserError, match="another run: examples is .* there, .* here; weights is"):
        train(
            other, nnx.Param, TrainingData(made_examples(seed=1)), CONFIG, seed=0, folder=tmp_path
        )


def test_a_disk_that_fills_up_under_the_log_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": 2.0})
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"metrics.jsonl: cannot be written \(No space left"):
            log.write({"step": 2, "loss": 1.0})
    assert [row["step"] for row in log.rows] == [1]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in range(1, 6):
            log.write({"step": step, "loss": step / 3})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 6, "lo')  # killed in the middle of a line
    with MetricsLog(tmp_path, 3) as log:
        assert [row["step"] for row in log.rows] == [1, 2, 3]
        log.write({"step": 4, "loss": 4 / 3})
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:4])
