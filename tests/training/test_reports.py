"""What a training shows: pace and share of peak, trackers, a picture, and what went wrong where."""

import json
import sys
import types

import jax
import numpy as np
import pytest
from flax import nnx
from training_cases import CONFIG, SOFT, made_examples, soft_prompt

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.training.metrics_log import MetricsLog, plot_losses, read_rows
from adapt_jax.training.throughput import StepFlops, peak_flops
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError

ROWS = [
    {"step": 1, "loss": 3.5, "time": {"seconds": 0.5, "peak_share": None}},
    {"step": 2, "loss": 3.25, "time": {"seconds": 0.25, "peak_share": 0.5}},
    {"step": 2, "development_loss": 3.0, "best_step": 2},
]


def test_the_work_of_a_step_is_six_operations_for_each_trained_weight_and_four_for_a_frozen_one(
    tiny,
):
    before, behind = 32 * 32 + 32 * 16 * 2, 32 * 32 + 3 * 32 * 64  # attention, in each layer
    layers, output = 2 * before + behind, 320 * 32 + behind  # the last one goes on with targets
    model = TunedDecoder(tiny.decoder, soft_prompt(5))
    _, everything, none = nnx.split(model, nnx.Param, ...)
    _, prompt, frozen = nnx.split(model, SOFT, ...)
    full, light = StepFlops(everything, none, 7), StepFlops(prompt, frozen, 7)
    assert full.count(100, 30) == 6 * (layers * 107 + output * 30)
    assert light.count(100, 30) == 4 * (layers * 107 + output * 30)


def test_the_peak_is_measured_where_it_is_not_known_and_known_for_accelerators(monkeypatch):
    assert 1e9 < peak_flops() < 1e14
    device = types.SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert peak_flops.__wrapped__() == 8 * 197e12


def test_no_step_is_faster_than_the_peak(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt_jax.training.step_reports.peak_flops", lambda: 1.0)
    model = TunedDecoder(tiny.decoder, soft_prompt())
    train(model, SOFT, TrainingData(made_examples()), CONFIG, seed=0, folder=tmp_path)
    shares = [row["time"]["peak_share"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert max(shares) == 1 and min(shares) < 1


def test_a_run_tells_its_pace_and_leaves_a_log_and_a_picture(tiny, tmp_path):
    told = []
    model = TunedDecoder(tiny.decoder, soft_prompt())
    train(
        model, SOFT, TrainingData(made_examples()), CONFIG, seed=0, folder=tmp_path,
        on_step=lambda *step: told.append(step),
    )  # fmt: skip
    assert told.pop(0) == (0, 8, "compiling the training step")
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(row["time"]["tokens_per_second"] > 0 for row in rows)
    assert all(row["time"]["peak_share"] >= 0 for row in rows)  # of a step so small, 0 when rounded
    assert all(f"loss {row['loss']:.3f}, " in step[2] for row, step in zip(rows, told, strict=True))
    assert "tokens/s" in told[-1][2] and "% of peak" in told[-1][2]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_validations_too(tmp_path):
    plot_losses(ROWS, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 5000
    plot_losses([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_weights_and_biases_gets_every_row_once(tmp_path, monkeypatch):
    begun, logged = [], []
    run = types.SimpleNamespace(
        log=lambda numbers, step: logged.append((step, numbers)),
        finish=lambda: logged.append("finished"),
    )
    wandb = types.SimpleNamespace(init=lambda **options: begun.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (0, 1):  # the second time it goes on after step 1
        with MetricsLog(tmp_path, step, ["wandb"]) as log:
            log.write(ROWS[step])
    assert logged == [
        (1, {"loss": 3.5, "time/seconds": 0.5}),
        "finished",
        (2, {"loss": 3.25, "time/seconds": 0.25, "time/peak_share": 0.5}),
        "finished",
    ]
    assert begun[0]["id"] == begun[1]["id"] and begun[0]["resume"] == "allow"


def test_tensorboard_shows_each_row_once_however_often_the_run_goes_on(tmp_path):
    pytest.importorskip("tensorboard", reason="comes with the tensorboard extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step in (0, 1, 1):
        with MetricsLog(tmp_path, step, ["tensorboard"]) as log:
            for row in ROWS[step:]:
                log.write(row)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 3.5), (2, 3.25)]
    assert [event.value for event in events.Scalars("development_loss")] == [3.0]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(tiny, tmp_path, monkeypatch, name):
    for module in ("tensorboard.compat.proto.event_pb2", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    config = CONFIG.model_copy(update={"trackers": [name]})
    with pytest.raises(UserError, match=rf"pip install adapt-jax\[{name}\]"):
        model = TunedDecoder(tiny.decoder, soft_prompt())
        train(model, SOFT, TrainingData(made_examples()), config, seed=0, folder=tmp_path)


def test_a_loss_that_is_no_number_names_the_examples_and_keeps_the_last_checkpoint(tiny, tmp_path):
    model = TunedDecoder(tiny.decoder, SoftPrompt(np.full((2, 32), np.nan)))
    with pytest.raises(UserError) as told:
        train(model, SOFT, TrainingData(made_examples()), CONFIG, seed=0, folder=tmp_path)
    line = str(told.value)
    assert "the loss of step 1 is nan; its batch holds the examples " in line
    named = line.partition("holds the examples ")[2].partition(";")[0].split(", ")
    assert len(named) == 4 and set(named) <= {example.id for example in made_examples()}
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_diverging_run_stops_before_it_saves_what_is_worthless(tiny, tmp_path):
    settings = {"optimizer": "sgd", "learning_rate": 3e3, "clip_norm": 1e9, "schedule": "constant"}
    settings |= {"steps": 60, "checkpoint_every": 5, "warmup_steps": 0}
    config = CONFIG.model_copy(update=settings)
    model = TunedDecoder(nnx.clone(tiny.decoder))
    with pytest.raises(UserError, match="the run diverges|is nan|not finite") as told:
        train(model, nnx.Param, TrainingData(made_examples()), config, seed=0, folder=tmp_path)
    assert "\n" not in str(told.value) and "lower learning rate" in str(told.value)
    for row in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert np.isfinite(json.loads(row)["loss"])
