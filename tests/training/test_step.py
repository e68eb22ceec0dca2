"""The options of a training step: parts, weights, precision and what is computed again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.training import step as step_module
from adapt_jax.training.batches import Batches
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.packing import (
    BatchShape,
    TrainingExample,
    pack,
    pack_rows,
    split_microbatches,
)
from adapt_jax.training.step import TrainState, make_step
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils import cpu
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError

SOFT = nnx.PathContains("soft_prompt")
SHAPE = BatchShape(5, 64, 256)
FRONT = jnp.asarray([0, 7])


def made_examples(count=12, seed=0):
    draws = np.random.default_rng(seed)
    sizes = draws.integers(6, 30, count)
    return [
        TrainingExample(str(n), tuple(draws.integers(3, 320, size).tolist()), int(size) // 3)
        for n, size in enumerate(sizes)
    ]


def stepped(pretrained, batch, chosen=SOFT, **options):
    """Loss and what is trained after one step of plain SGD: the gradient shows in full."""
    soft = SoftPrompt(np.random.default_rng(1).normal(0, 0.2, (5, 32)))
    model = TunedDecoder(nnx.clone(pretrained.decoder), soft)
    graph, trainable, frozen = nnx.split(model, chosen, ...)
    update = optax.sgd(1.0)
    trainable = jax.tree.map(jnp.copy, trainable)  # the step donates what it is given
    state = TrainState(trainable, update.init(trainable))
    step = make_step(graph, update, TrainingConfig(**options))
    state, measured = step(state, frozen, batch, FRONT)
    return float(measured["loss"]), jax.tree.leaves(state.trainable)


@pytest.fixture(scope="module")
def whole(shallow):
    return stepped(shallow, pack(made_examples(), SHAPE)[0], nnx.Param)


@pytest.mark.parametrize("parts", [3, 7])  # seven are more than there are rows
def test_parts_of_unlike_size_give_the_loss_and_gradients_of_the_whole(shallow, whole, parts):
    batch, left_over = pack(made_examples(), SHAPE, parts)
    counts = batch.target_weight.sum(axis=1)
    assert not left_over and len(set(counts)) > 1  # a mean of means would be another number
    loss, found = stepped(shallow, batch, nnx.Param)
    assert loss == pytest.approx(whole[0], abs=1e-5)
    for ours, theirs in zip(found, whole[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_parts_hold_every_row_once_and_about_as_many_targets_each(packing):
    examples = made_examples(40)
    rows = pack_rows(examples, 64, packing)
    hands = split_microbatches(rows, 3)
    assert sorted(map(str, rows)) == sorted(str(row) for hand in hands for row in hand)
    assert max(map(len, hands)) == -(-len(rows) // 3)
    counts = [sum(example.num_targets for row in hand for example in row) for hand in hands]
    of_rows = [sum(example.num_targets for example in row) for row in rows]
    assert max(counts) - min(counts) <= max(of_rows)


@pytest.mark.parametrize("remat", ["layers", "products"])
def test_computing_again_changes_no_gradient(shallow, whole, remat):
    loss, found = stepped(shallow, pack(made_examples(), SHAPE)[0], nnx.Param, remat=remat)
    assert loss == pytest.approx(whole[0], abs=1e-6)
    for ours, theirs in zip(found, whole[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bfloat16_is_computed_in_while_what_is_trained_stays_float32(shallow, whole):
    batch = pack(made_examples(), SHAPE)[0]
    loss, found = stepped(shallow, batch, nnx.Param, compute_dtype="bfloat16")
    assert loss != whole[0] and loss == pytest.approx(whole[0], rel=0.02)
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}


def test_frozen_weights_in_bfloat16_leave_prompt_and_decoder_in_float32(shallow):
    soft = SoftPrompt(np.random.default_rng(1).normal(0, 0.2, (5, 32)))
    model = TunedDecoder(nnx.clone(shallow.decoder), soft)
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model.decoder))]
    config = TrainingConfig(steps=1, frozen_dtype="bfloat16", warmup_steps=0, row_length=64)
    result = train(model, SOFT, TrainingData(made_examples()), config, seed=0)
    assert soft.embeddings[...].dtype == jnp.float32 and np.isfinite(result.losses).all()
    for leaf, earlier in zip(jax.tree.leaves(nnx.state(model.decoder)), before, strict=True):
        np.testing.assert_array_equal(leaf, earlier)


def test_weights_of_targets_count_in_the_mean(shallow):
    one, other = made_examples(2)
    halved = TrainingExample(other.id, other.tokens, other.target_start, (0.5,) * other.num_targets)
    alone = [
        stepped(shallow, pack([example], SHAPE)[0])[0] * example.num_targets
        for example in (one, other)
    ]
    loss, _ = stepped(shallow, pack([one, halved], SHAPE)[0])
    expected = (alone[0] + 0.5 * alone[1]) / (one.num_targets + 0.5 * other.num_targets)
    assert loss == pytest.approx(expected, abs=1e-5)


def test_smoothing_and_z_loss_reach_the_step(shallow):
    batch = pack(made_examples(4), SHAPE)[0]
    plain, z_loss = stepped(shallow, batch)[0], stepped(shallow, batch, z_loss=0.1)[0]
    assert z_loss > plain + 0.1
    assert stepped(shallow, batch, label_smoothing=0.2)[0] != pytest.approx(plain, abs=1e-3)


def test_a_batch_without_a_target_is_named():
    examples = [TrainingExample("with", (1, 2, 3), 1), TrainingExample("without", (1, 2), 2)]
    with pytest.raises(UserError, match=r"step \d: no example of its batch has .* \(without\)"):
        Batches(examples, 1, 4, seed=0)
    weightless = TrainingExample("weightless", (1, 2, 3), 1, (0.0, 0.0))
    with pytest.raises(UserError, match=r"step \d: no example of its batch has .* \(weightless\)"):
        Batches([examples[0], weightless], 1, 4, seed=0)
    Batches([replace(weightless, weights=(0.0,))], 1, 1, seed=0)  # its first target counts


def test_an_unknown_optimizer_or_schedule_is_reported_with_the_nearest():
    with pytest.raises(UserError, match="f: optimizer: .*'lion'.* found 'adamm'; did .* 'adamw'"):
        validate(TrainingConfig, {"optimizer": "adamm"}, "f")
    with pytest.raises(UserError, match="f: schedule: .* found 'cosin'; did you mean 'cosine'"):
        validate(TrainingConfig, {"schedule": "cosin"}, "f")


def test_more_parts_than_examples_are_refused():
    with pytest.raises(ValueError, match="steps 5: more microbatches than the 4 examples"):
        TrainingConfig(batch_size=4, gradient_accumulation_steps=5)


def test_a_negative_learning_rate_is_refused():
    with pytest.raises(ValueError, match="learning_rate"):
        TrainingConfig(learning_rate=-1e-3)


def test_options_that_this_compiler_does_not_know_are_not_given(monkeypatch):
    monkeypatch.setattr(cpu, "STEP_COMPILER_OPTIONS", {"xla_cpu_no_such_option": "1"})
    cpu.step_compiler_options.cache_clear()
    assert cpu.step_compiler_options(jnp.float32) == {}
    monkeypatch.undo()
    cpu.step_compiler_options.cache_clear()
    on_cpu = jax.default_backend() == "cpu"
    options = cpu.STEP_COMPILER_OPTIONS if on_cpu else {}
    assert cpu.step_compiler_options(jnp.float32) == options
    assert cpu.step_compiler_options(jnp.bfloat16) == {}


def test_what_many_small_parts_pull_at_the_prefix_is_not_rounded_off_in_bfloat16(shallow):
    """One part has all the weight but a twentieth, which 31 of the same examples share: each is
    too little to count beside the first in bfloat16, and together they do."""
    model = TunedDecoder(shallow.decoder, SoftPrompt(np.full((5, 32), 0.1)))
    one, _ = pack(made_examples(4), SHAPE)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 32), one)
    shares = jnp.asarray([1.0, *[1 / 600] * 31])[:, None]
    many = replace(many, target_weight=many.target_weight * shares)
    graph, trainable, frozen = nnx.split(model, SOFT, ...)
    config, update = TrainingConfig(compute_dtype="bfloat16"), optax.sgd(1.0)

    def norm(batch):
        state = TrainState(jax.tree.map(jnp.copy, trainable), update.init(trainable))
        measured = make_step(graph, update, config)(state, frozen, batch, FRONT)[1]
        return float(measured["gradient_norm"])

    assert norm(many) == pytest.approx(norm(one), rel=0.01)


def traced(model):
    """The step over three parts of the same examples."""
    one, _ = pack(made_examples(4), SHAPE)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), one)
    graph, trainable, frozen = nnx.split(model, SOFT, ...)
    update = optax.sgd(1.0)
    state = TrainState(trainable, update.init(trainable))
    return make_step(graph, update).trace(state, frozen, batch, FRONT)


def products_of(jaxpr, inside=False):
    """(whether it is in a loop, the shape of the left factor) of every product."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield inside, equation.invars[0].aval.shape
        for inner in jaxprs_in_params(equation.params):
            yield from products_of(inner, inside or equation.primitive.name == "scan")


def test_the_prefix_is_encoded_outside_of_the_loop_over_parts(tiny):
    model = TunedDecoder(tiny.decoder, SoftPrompt(np.full((7, 32), 0.1)))
    products = list(products_of(traced(model).jaxpr.jaxpr))
    behind = [inside for inside, shape in products if shape[:2] == (1, 7 + len(FRONT))]
    assert len(behind) > 10 and not any(behind)
    assert any(inside for inside, _ in products)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is a CPU that has two libraries")
def test_a_step_on_a_cpu_leaves_plain_products_to_eigen(shallow, monkeypatch):
    model = TunedDecoder(shallow.decoder, SoftPrompt(np.full((7, 32), 0.1)))
    told = traced(model).lower().compile().as_text()
    monkeypatch.setattr(step_module, "step_compiler_options", lambda dtype: {})
    untold = traced(model).lower().compile().as_text()
    assert told.count("ynn_fusion") < untold.count("ynn_fusion") / 2
