"""Validation during training: what is measured, which step is kept, when it ends."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import CONFIG, ITEMS, SOFT, TASK, made_examples, soft_prompt

from adapt_jax.methods.fine_tuning import FineTuning
from adapt_jax.methods.lora import LoRAConfig
from adapt_jax.methods.prompt_tuning import PromptTuning
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.training.metrics_log import read_rows
from adapt_jax.training.packing import BatchShape, TrainingExample, pack
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import BestStep, Validation, Validator
from adapt_jax.utils.errors import UserError

DEVELOPMENT = Validation(made_examples(9, seed=3))


def test_the_best_is_the_first_of_equals_and_stale_counts_what_came_after():
    loss, accuracy = BestStep("loss"), BestStep("accuracy")
    assert [loss.update(step, v) for step, v in enumerate([3, 2, 2, 4, 1])] == [1, 1, 0, 0, 1]
    assert (loss.step, loss.value, loss.stale) == (4, 1, 0)
    assert [accuracy.update(step, v) for step, v in enumerate([0.1, 0.3, 0.3, 0.2])] == [1, 1, 0, 0]
    assert (accuracy.step, accuracy.stale) == (1, 2)
    assert BestStep(**json.loads(json.dumps(accuracy.to_dict()))) == accuracy


def run(
    tiny,
    folder=None,
    examples=None,
    development=DEVELOPMENT,
    accuracy_fn=None,
    on_step=None,
    **more,
):
    """Trains a soft prompt with validation; what came of it, and the soft prompt."""
    model = TunedDecoder(tiny.decoder, soft_prompt())
    settings = {"steps": 12, "validate_every": 3, "learning_rate": 0.3, "warmup_steps": 0} | more
    result = train(
        model,
        SOFT,
        TrainingData(made_examples(), (0, 7), validation=development, accuracy_fn=accuracy_fn),
        CONFIG.model_copy(update=settings),
        seed=0,
        folder=folder,
        on_step=on_step,
    )
    return result, model


def test_the_development_loss_is_that_of_all_targets_whatever_the_batches(tiny, tmp_path):
    result, model = run(tiny, tmp_path)
    rows = {row["step"]: row for row in read_rows(tmp_path / "metrics.jsonl") if "loss" not in row}
    assert list(rows) == [3, 6, 9, 12]
    whole, left_over = pack(DEVELOPMENT.examples, BatchShape(9, 64, 400))
    assert not left_over
    expected = float(model.loss(whole, model.prefix(jnp.asarray((0, 7))))[0])
    best = min(rows.values(), key=lambda row: row["development_loss"])
    assert result.best.step == best["step"] == rows[12]["best_step"]
    assert result.best.value == pytest.approx(expected, abs=1e-5)  # the best step came back


def test_training_ends_when_patience_does_and_the_best_step_comes_back(tiny, tmp_path):
    values = iter([0.2, 0.5, 0.5, 0.4, 0.9])
    seen = []

    def accuracy_fn(prompt, tuned):
        assert prompt is None
        seen.append(np.asarray(tuned.soft_prompt.embeddings[...]).copy())
        return next(values)

    result, model = run(
        tiny, tmp_path, accuracy_fn=accuracy_fn, metric="accuracy", patience=2, steps=30
    )
    assert len(seen) == 4 and len(result.losses) == 12  # of 30: two validations without a better
    assert (result.best.step, result.best.value) == (6, 0.5)
    np.testing.assert_array_equal(model.soft_prompt.embeddings[...], seen[1])
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"6", "12"}
    # Started again, it has ended, and the best step comes from its checkpoint.
    again, other = run(
        tiny, tmp_path, accuracy_fn=accuracy_fn, metric="accuracy", patience=2, steps=30
    )
    assert again.best == result.best and again.losses == result.losses and len(seen) == 4
    np.testing.assert_array_equal(other.soft_prompt.embeddings[...], seen[1])


def test_an_interrupted_run_with_validation_ends_in_the_same_best_step(tiny, tmp_path):
    def stop(step, steps, note):
        if step == 8:
            raise KeyboardInterrupt

    expected, model = run(tiny, tmp_path / "alone", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "run", on_step=stop, checkpoint_every=2)
    found, resumed = run(tiny, tmp_path / "run", checkpoint_every=2)
    assert found.best == expected.best and found.losses == expected.losses
    np.testing.assert_array_equal(
        resumed.soft_prompt.embeddings[...], model.soft_prompt.embeddings[...]
    )
    alone, again = (
        [row | {"time": None} for row in read_rows(tmp_path / name / "metrics.jsonl")]
        for name in ("alone", "run")
    )
    assert alone == again


def test_a_development_loss_that_is_no_number_ends_the_run(tiny, monkeypatch):
    monkeypatch.setattr(Validator, "measure", lambda *_: {"development_loss": float("nan")})
    with pytest.raises(UserError, match="after step 3 the loss of the development split is nan"):
        run(tiny)


def test_what_cannot_be_validated_is_reported(tiny):
    with pytest.raises(UserError, match="metric accuracy: there is nothing here that can be asked"):
        run(tiny, metric="accuracy")
    with pytest.raises(UserError, match="validate_every needs a development split"):
        run(tiny, development=None)
    long = Validation([TrainingExample("a", (5,) * 100, 3)])
    with pytest.raises(UserError, match="no development example fits into a row"):
        run(tiny, development=long)
    method = FineTuning(training={"steps": 1, "validate_every": 1})
    with pytest.raises(MethodNotApplicable, match="needs a development split"):
        method.adapt(tiny, TASK)


def test_dora_answers_the_development_split_in_training(shallow):
    task = replace(TASK, development=ITEMS[10:12], train=ITEMS[:9])
    training = {"steps": 1, "batch_size": 4, "validate_every": 1, "metric": "accuracy"}
    method = LoRAConfig(rank=1, modules=["up"], dora=True, max_new_tokens=2, training=training)
    assert method.adapt(shallow, task).details["best"]["metric"] == "accuracy"


def test_a_rung_is_judged_by_the_answers_it_gives_to_the_development_split(tiny, monkeypatch):
    task = replace(TASK, development=ITEMS[10:13], train=ITEMS[:9])
    training = {"steps": 4, "batch_size": 4, "validate_every": 2, "metric": "accuracy"}
    method = PromptTuning(length=3, max_new_tokens=4, training=training)
    adapted = method.adapt(tiny, task)
    best = adapted.details["best"]
    assert best["metric"] == "accuracy" and best["step"] == 2 and 0 <= best["value"] <= 1
    asked = []

    def evaluate(adaptation, judged, examples, **options):
        asked.append((adaptation.soft_prompt is not None, tuple(examples)))
        return type("Evaluation", (), {"accuracy": len(asked) / 10})

    monkeypatch.setattr("adapt_jax.methods.base.evaluate", evaluate)
    adapted = method.adapt(tiny, task)
    assert asked == [(True, tuple(task.development))] * 2
    assert adapted.details["best"] == {"metric": "accuracy", "step": 4, "value": 0.2, "stale": 0}
