"""Training: exact losses and gradients, frozen leaves untouched, one device or eight."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_cases import CONFIG, SOFT, leaves, made_examples, soft_prompt

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.training import run
from adapt_jax.training.batches import Batches
from adapt_jax.training.metrics_log import read_rows
from adapt_jax.training.packing import BatchShape, pack
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError


def gradients(model, loss):
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    value, grads = jax.jit(jax.value_and_grad(lambda p: loss(nnx.merge(graph, p, rest))))(params)
    return float(value), jax.tree.leaves(grads)


def test_packed_rows_behind_a_shared_prefix_equal_repeated_unpacked_ones(tiny):
    examples, prompt_prefix = made_examples(), (0, 7, 8)
    batch, left_over = pack(examples, BatchShape(5, 64, 400))
    assert not left_over and (batch.segments.max(axis=1) > 1).any()
    model = TunedDecoder(tiny.decoder, soft_prompt())

    width = max(len(example.tokens) for example in examples)
    ids, weights = np.zeros((2, len(examples), width), np.int32)
    for row, example in enumerate(examples):  # a row each, the prefix repeated in all of them
        ids[row, : len(example.tokens)] = example.tokens
        weights[row, example.target_start : len(example.tokens)] = 1

    def repeated(model):
        prefix = [
            model.soft_prompt.embeddings[...],
            model.decoder.embed(jnp.asarray(prompt_prefix)),
        ]
        prefix = jnp.repeat(jnp.concatenate(prefix)[None], len(examples), axis=0)
        embedded = jnp.concatenate([prefix, model.decoder.embed(jnp.asarray(ids))], axis=1)
        grid = jnp.ones(embedded.shape[:2], jnp.int32)
        positions = jnp.cumsum(grid, axis=1) - 1
        hidden, _ = model.decoder(embedded, positions, causal_mask(grid))
        logits = model.decoder.logits(hidden[:, prefix.shape[1] - 1 : -1])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)
        return -(chosen[..., 0] * weights).sum() / weights.sum()

    front_ids = jnp.asarray(prompt_prefix)
    packed_loss, packed = gradients(
        model, lambda model: model.loss(batch, model.prefix(front_ids))[0]
    )
    plain_loss, plain = gradients(model, repeated)
    assert packed_loss == pytest.approx(plain_loss, abs=1e-5)
    for ours, theirs in zip(packed, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_prompt_gradient_equals_that_of_peft(tiny, tiny_folder):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    reference = peft.get_peft_model(reference, settings)
    examples, soft = made_examples(6), soft_prompt()
    embedding = reference.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        embedding.copy_(torch.tensor(np.asarray(soft.embeddings[...])))
    width = max(len(example.tokens) for example in examples)
    ids = np.full((6, width), 2)
    labels, mask = np.full((6, width), -100), np.zeros((6, width), int)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        ids[row, :length], mask[row, :length] = example.tokens, 1
        labels[row, example.target_start : length] = example.tokens[example.target_start :]
    arguments = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss = reference(**{name: torch.tensor(value) for name, value in arguments.items()}).loss
    loss.backward()

    batch, _ = pack(examples, BatchShape(4, 64, 200))
    model = TunedDecoder(tiny.decoder, soft)
    graph, prompt, frozen = nnx.split(model, SOFT, ...)

    def ours(prompt):
        model = nnx.merge(graph, prompt, frozen)
        return model.loss(batch, model.prefix(jnp.zeros(0, jnp.int32)))[0]

    value, gradient = jax.jit(jax.value_and_grad(ours))(prompt)
    assert float(value) == pytest.approx(loss.item(), abs=1e-5)
    (gradient,) = jax.tree.leaves(gradient)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(gradient, embedding.grad.numpy(), atol=1e-5)


def test_the_loss_goes_down_and_frozen_leaves_stay_bit_identical(shallow):
    model = TunedDecoder(shallow.decoder, soft_prompt())
    before = leaves(model.decoder)
    prompt_before = np.asarray(model.soft_prompt.embeddings[...])
    config = CONFIG.model_copy(update={"steps": 30, "batch_size": 12, "weight_decay": 0.1})
    seen = []
    result = train(
        model,
        SOFT,
        TrainingData(made_examples(), (0, 7)),
        config,
        seed=0,
        on_step=lambda *a: seen.append(a),
    )
    assert result.losses[-1] < result.losses[0] - 0.1
    assert result.trainable_parameters == 5 * 32
    assert seen.pop(0) == (0, 30, "compiling the training step")
    assert [told[:2] for told in seen] == [(i, 30) for i in range(1, 31)]
    assert all(
        f"loss {loss:.3f}" in told[2] for told, loss in zip(seen, result.losses, strict=True)
    )
    assert np.abs(np.asarray(model.soft_prompt.embeddings[...]) - prompt_before).max() > 1e-3
    for path, leaf in leaves(model.decoder).items():
        np.testing.assert_array_equal(leaf, before[path])


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "sgd"])
def test_every_optimizer_learns(shallow, optimizer):
    rate = {"adamw": 1e-2, "adafactor": 3e-2, "lion": 3e-3, "sgd": 1.0}[optimizer]
    config = CONFIG.model_copy(
        update={"steps": 20, "batch_size": 12, "optimizer": optimizer, "learning_rate": rate}
    )
    result = train(
        TunedDecoder(shallow.decoder, soft_prompt()),
        SOFT,
        TrainingData(made_examples()),
        config,
        seed=0,
    )
    assert result.losses[-1] < result.losses[0] - 0.02


def fine_tuned(shallow, mesh, optimizer):
    """Losses, parameters and the model after twenty steps of training everything."""
    config = CONFIG.model_copy(update={"steps": 20, "batch_size": 12, "optimizer": optimizer})
    model = TunedDecoder(nnx.clone(shallow.decoder), soft_prompt())
    result = train(
        model,
        nnx.Param,
        TrainingData(made_examples(), (0, 7)),
        config,
        seed=0,
        mesh=mesh,
    )
    return result.losses, leaves(model), model


@pytest.fixture(scope="module")
def on_one_device(shallow):
    """What training on one device gives, by optimizer."""
    return {name: fine_tuned(shallow, None, name) for name in ("adamw", "adafactor")}


@pytest.mark.parametrize(
    ("sizes", "optimizer"),
    [
        ((2, 1, 1), "adamw"),
        ((2, 2, 2), "adamw"),
        ((8, 1, 1), "adamw"),
        ((1, 2, 2), "adafactor"),
    ],
)
def test_the_loss_curve_is_the_same_on_one_two_four_and_eight_devices(
    shallow, on_one_device, sizes, optimizer
):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    losses, found, model = fine_tuned(shallow, mesh, optimizer)
    alone, expected, _ = on_one_device[optimizer]
    np.testing.assert_allclose(losses, alone, rtol=1e-4)
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[path], atol=2e-3)
    kernel = model.decoder.layers[0].ffn.up.kernel[...]
    ways = sizes[1] * sizes[2]
    assert kernel.addressable_shards[0].data.size == kernel.size // ways


def test_rows_that_the_mesh_cannot_share_are_refused_with_the_arithmetic(shallow):
    model = TunedDecoder(nnx.clone(shallow.decoder))
    shape = BatchShape(10, 64, 200)
    line = r"10 rows .* data 2 x fsdp 2 = 4: 10 / 4 leaves 2; choose 8 or 12"
    with pytest.raises(UserError, match=line):
        mesh = make_mesh(2, 2, 2)
        train(
            model, nnx.Param, TrainingData(made_examples(), shape=shape), CONFIG, seed=0, mesh=mesh
        )
    with pytest.raises(UserError, match="3 x 1 x 1 = 3"):
        make_mesh(3, 1, 1)


@pytest.mark.parametrize("sizes", [None, (2, 2, 2)])
def test_an_interrupted_run_that_is_resumed_equals_an_uninterrupted_one(shallow, tmp_path, sizes):
    mesh = make_mesh(*sizes) if sizes else None
    config = CONFIG.model_copy(update={"checkpoint_every": 3})

    def run(folder, on_step=None, mesh=None, **changes):
        model = TunedDecoder(nnx.clone(shallow.decoder))
        changed = config.model_copy(update=changes)
        result = train(
            model, nnx.Param, TrainingData(made_examples()), changed,
            seed=0, folder=folder, on_step=on_step, mesh=mesh,
        )  # fmt: skip
        return result.losses, leaves(model)

    def stop_at_five(step, steps, loss):
        if step == 5:
            raise KeyboardInterrupt

    expected_losses, expected = run(None, mesh=mesh)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at_five, mesh)
    resumed = []
    losses, found = run(tmp_path, lambda step, *_: resumed.append(step), mesh)
    assert resumed == [3, 4, 5, 6, 7, 8]  # the checkpoint of step 3, then the others
    assert losses == expected_losses
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8
    with pytest.raises(UserError, match=r"training.learning_rate is 0.01 there, 0.5 here"):
        run(tmp_path, mesh=mesh, learning_rate=0.5)


def test_nothing_trainable_and_a_loss_that_is_no_number_are_reported(shallow):
    with pytest.raises(UserError, match="nothing is trainable"):
        train(TunedDecoder(shallow.decoder), SOFT, TrainingData(made_examples()), CONFIG, seed=0)
    broken = SoftPrompt(np.full((2, 32), np.nan))
    with pytest.raises(UserError, match="the loss of step 1 is nan"):
        train(
            TunedDecoder(shallow.decoder, broken),
            SOFT,
            TrainingData(made_examples()),
            CONFIG,
            seed=0,
        )


class Steep(TunedDecoder):
    """Its loss is as ever; where a batch holds the token 319, its gradient is no number."""

    def loss(self, batch, *given, **options):
        nats, right = super().loss(batch, *given, **options)
        level = jnp.where((batch.tokens == 319).any(), 0.0, 1.0)
        cliff = jnp.sqrt(level * jnp.abs(self.soft_prompt.embeddings[...]).sum())
        return nats + cliff - jax.lax.stop_gradient(cliff), right


def test_a_gradient_that_is_no_number_stops_its_very_step_and_reaches_no_checkpoint(
    shallow, tmp_path
):
    examples = [replace(e, tokens=tuple(t % 300 for t in e.tokens)) for e in made_examples()]
    step = 2  # of the first epoch, from 0
    drawn = Batches(examples, CONFIG.batch_size, CONFIG.steps, seed=0, row_length=64).examples_of(
        step
    )
    place = examples.index(drawn[1])
    examples[place] = replace(drawn[1], id="bad", tokens=(319, *drawn[1].tokens[1:]))
    config = CONFIG.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(UserError) as told:
        train(
            Steep(shallow.decoder, soft_prompt()),
            SOFT,
            TrainingData(examples),
            config,
            seed=0,
            folder=tmp_path,
        )
    line = str(told.value)
    assert f"the loss of step {step + 1} is " in line and "the norm of its gradient nan" in line
    named = line.partition("holds the examples ")[2].partition(";")[0].split(", ")
    assert named == [drawn[0].id, "bad", *(example.id for example in drawn[2:])]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, step + 1))
    assert all(0 < row["gradient_norm"] < 100 for row in rows)
    saved = sorted(int(entry.name) for entry in (tmp_path / "checkpoints").iterdir())
    assert saved[-1] == step


def test_the_logged_norm_is_that_of_the_gradient_of_the_whole_step(shallow, tmp_path):
    config = CONFIG.model_copy(update={"steps": 2, "batch_size": 12, "clip_norm": 0.01})
    model, examples = TunedDecoder(shallow.decoder, soft_prompt()), made_examples()
    batch, left_over = pack(examples, BatchShape(5, 64, 400))
    _, expected = gradients(
        TunedDecoder(shallow.decoder, soft_prompt()),
        lambda model: model.loss(batch, model.prefix(jnp.zeros(0, jnp.int32)))[0],
    )
    norm = float(jnp.linalg.norm(expected[-1]))  # decoder before soft_prompt
    assert expected[-1].shape == (5, 32) and not left_over
    train(model, SOFT, TrainingData(examples), config, seed=0, folder=tmp_path)
    assert read_rows(tmp_path / "metrics.jsonl")[0]["gradient_norm"] == pytest.approx(norm, 1e-4)


@pytest.mark.parametrize("chosen", [SOFT, nnx.Param], ids=["soft prompt", "all"])
def test_a_run_compiles_its_step_once(shallow, monkeypatch, chosen):
    """The state that a step returns is bound to its device; the first one must be, too."""
    made, original = [], run.make_step

    def make(*given, **more):
        made.append(original(*given, **more))
        return made[-1]

    monkeypatch.setattr(run, "make_step", make)
    model = TunedDecoder(nnx.clone(shallow.decoder), soft_prompt())
    config = CONFIG.model_copy(update={"steps": 3})
    train(model, chosen, TrainingData(made_examples()), config, seed=0)
    assert [step._cache_size() for step in made] == [1]
