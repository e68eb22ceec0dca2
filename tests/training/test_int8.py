"""Frozen weights in int8: a quarter of the bytes, exact gradients, and the originals stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_trainer import SOFT, leaves, made_examples, soft_prompt
from test_tuning import TASK, TRAINING, assert_unchanged, weights

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.config import DecoderConfig, Experts, LayerKind
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.rope import Rope
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.methods.fine_tuning import FineTuning
from adapt_jax.methods.instruction_tuning import InstructionTuning
from adapt_jax.methods.lora import LoRAConfig, attach
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.int8 import Int8, quantized
from adapt_jax.training.packing import BatchShape, pack
from adapt_jax.training.step import TrainState, make_step
from adapt_jax.training.trainer import train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import Validation
from adapt_jax.utils.errors import UserError

INT8 = TRAINING | {"frozen_dtype": "int8"}


def is_int8(leaf):
    return isinstance(leaf, Int8)


def floats(frozen):
    """The very weights that int8 stands for, in float32."""
    back = lambda leaf: leaf.whole.astype(jnp.float32) * leaf.scale if is_int8(leaf) else leaf  # noqa: E731
    return jax.tree.map(back, frozen, is_leaf=is_int8)


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def split(decoder, soft=None, chosen=SOFT):
    graph, trained, frozen = nnx.split(TunedDecoder(decoder, soft), chosen, ...)
    return graph, trained, frozen, quantized(frozen, trained)


def test_every_matrix_takes_a_quarter_and_is_rounded_to_half_a_step_of_its_output(tiny):
    _, _, frozen, held = split(tiny.decoder, soft_prompt())
    pairs = zip(jax.tree.leaves(frozen), jax.tree.leaves(held, is_leaf=is_int8), strict=True)
    rounded = [(before, after) for before, after in pairs if is_int8(after)]
    assert len(rounded) == 1 + 2 * 7  # the embedding, and seven kernels of each layer
    for before, after in rounded:
        assert after.whole.dtype == jnp.int8 and 4 * after.whole.nbytes == before.nbytes
        assert np.abs(after.whole).max() == 127 and np.abs(after.whole).min() >= 0
        assert (np.abs(before - after.whole * after.scale) <= after.scale * 0.5001).all()
    outputs = sum(after.scale.size for _, after in rounded)
    norms = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen) if leaf.ndim == 1)
    assert size(held) == size([b for b, _ in rounded]) / 4 + 4 * outputs + norms


def test_an_output_of_zeros_stays_one(tiny):
    decoder = nnx.clone(tiny.decoder)
    kernel = decoder.layers[0].ffn.up.kernel
    kernel[...] = kernel[...].at[3].set(0.0)
    found = floats(split(decoder, soft_prompt())[3])["decoder"]["layers"][0]["ffn"]["up"]["kernel"]
    assert not np.asarray(found[...])[3].any() and np.isfinite(found[...]).all()


def test_gradients_are_those_of_the_weights_that_int8_stands_for(tiny):
    decoder = nnx.clone(tiny.decoder)
    attach(decoder, "all", 2, 2.0, nnx.Rngs(0))
    for path, module in nnx.iter_modules(decoder):
        if path[-1:] == ("lora",):
            module.b[...] = 0.1 * jax.random.normal(jax.random.key(0), module.b[...].shape)
    both = nnx.Any(SOFT, nnx.PathContains("lora"))
    graph, trained, frozen, held = split(decoder, soft_prompt(), both)
    batch, _ = pack(made_examples(), BatchShape(5, 64, 400))
    update = optax.sgd(1.0)
    found, arguments = {}, {}
    for name, given in {"int8": held, "floats": floats(held)}.items():
        state = TrainState(jax.tree.map(jnp.copy, trained), update.init(trained))
        step = make_step(graph, update).lower(state, given, batch, jnp.zeros(0, jnp.int32))
        compiled = step.compile()
        arguments[name] = compiled.memory_analysis().argument_size_in_bytes
        after, measured = compiled(state, given, batch, jnp.zeros(0, jnp.int32))
        found[name] = measured, jax.tree.leaves(after.trainable)
    (loss, ours), (expected, theirs) = found["int8"], found["floats"]
    assert float(loss["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    for our, their, before in zip(ours, theirs, jax.tree.leaves(trained), strict=True):
        assert np.abs(their - before).max() > 1e-5  # a gradient, in full
        np.testing.assert_allclose(our, their, atol=1e-5)
    # Of the frozen weights the compiled step is given whole numbers, and no floats beside them.
    assert arguments["floats"] - arguments["int8"] == size(frozen) - size(held)
    wide = [leaf for leaf in jax.tree.leaves(held) if leaf.dtype != jnp.int8]
    assert all(leaf.ndim == 1 or 1 in leaf.shape for leaf in wide)


@pytest.mark.parametrize("tied", [True, False])
def test_experts_embedding_scale_and_output_are_those_of_the_weights_it_stands_for(tied):
    config = DecoderConfig(
        "made", 64, 16, 32, 1, 2, 2, 8, 64, tie_embeddings=tied, embedding_scale=4.0,
        layer_kinds=(LayerKind(Rope(theta=1e4), experts=True),), experts=Experts(4, 2, 24),
    )  # fmt: skip
    graph, trained, _, held = split(Decoder(config, rngs=nnx.Rngs(0)), soft_prompt())
    assert sum(map(is_int8, jax.tree.leaves(held, is_leaf=is_int8))) == 1 + 4 + 3 + (not tied)
    tokens = jnp.arange(12).reshape(2, 6)

    def logits(frozen):
        decoder = nnx.merge(graph, trained, frozen).decoder
        mask = causal_mask(jnp.ones_like(tokens))
        positions = jnp.broadcast_to(jnp.arange(6), tokens.shape)
        return decoder.logits(decoder(decoder.embed(tokens), positions, mask)[0])

    np.testing.assert_allclose(logits(held), logits(floats(held)), atol=1e-5)


def prompt_tuned(tiny, mesh=None, accuracy_fn=None, **changes):
    config = TrainingConfig(
        steps=12, batch_size=12, learning_rate=2e-2, warmup_steps=0, row_length=64
    ).model_copy(update=changes)
    model = TunedDecoder(nnx.clone(tiny.decoder), soft_prompt())
    validation = Validation(made_examples(4)) if accuracy_fn else None
    return train(
        model, SOFT, made_examples(), config, seed=0, mesh=mesh, accuracy_fn=accuracy_fn,
        validation=validation,
    ).losses, leaves(model)  # fmt: skip


def test_a_prompt_learns_on_int8_and_is_judged_on_weights_that_stay_to_the_bit(tiny):
    before = leaves(TunedDecoder(tiny.decoder))
    seen = []

    def accuracy_fn(prompt, now):
        seen.append(leaves(TunedDecoder(now.decoder)))
        return 0.5

    plain, _ = prompt_tuned(tiny)
    options = {"frozen_dtype": "int8", "validate_every": 6, "metric": "accuracy"}
    losses, after = prompt_tuned(tiny, accuracy_fn=accuracy_fn, **options)
    assert losses[0] != plain[0] and losses[0] == pytest.approx(plain[0], rel=0.02)
    assert losses[-1] < losses[0] - 0.05
    for found in (*seen, after):
        for path, leaf in before.items():
            np.testing.assert_array_equal(found[path], leaf)
    assert len(seen) == 2
    sharded, _ = prompt_tuned(tiny, make_mesh(2, 2, 2), frozen_dtype="int8")
    np.testing.assert_allclose(sharded, losses, rtol=1e-4)


def test_low_rank_updates_learn_on_int8_and_are_merged_into_the_originals(tiny):
    before = weights(tiny)
    tuned = LoRAConfig(rank=2, modules=["query", "up"], training=INT8).adapt(tiny, TASK, seed=0)
    assert tuned.losses[-1] < tuned.losses[0]
    assert_unchanged(tiny, before)
    assert tuned.lora_weights.merge_into(tiny).fingerprint == tuned.model.fingerprint
    moved = {path for path, leaf in weights(tuned.model).items() if (leaf != before[path]).any()}
    assert moved and all("query" in path or "up" in path for path in moved)


@pytest.mark.parametrize("method", [FineTuning, InstructionTuning])
def test_where_the_weights_themselves_are_trained_it_is_refused(tiny, method):
    with pytest.raises(UserError, match="frozen_dtype: int8 is for .* expected kept or bfloat16"):
        method(training=INT8).adapt(tiny, TASK, seed=0)
