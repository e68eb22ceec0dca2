"""A row for each example: the losses, and to rounding the weights, of the packed form."""

import jax
import numpy as np
import pytest
from flax import nnx
from training_cases import SOFT, leaves, soft_prompt

from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.methods.lora import attach_lora
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.metrics_log import read_rows
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.pretraining import PretrainingConfig, pretrain
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import Validation
from adapt_jax.utils.errors import UserError

CONFIG = TrainingConfig(steps=6, batch_size=3, learning_rate=1e-2, warmup_steps=0)


def made_examples():
    """Nine, two of them longer than the shortest bucket."""
    draws = np.random.default_rng(0)
    sizes = [9, 30, 80, 12, 25, 17, 95, 8, 21]
    return [
        TrainingExample(str(n), tuple(draws.integers(3, 320, size).tolist()), size // 2)
        for n, size in enumerate(sizes)
    ]


def trained(shallow, method, folder=None, on_step=None, mesh=None, **changes):
    """Result, and what was trained."""
    soft, decoder, chosen = None, nnx.clone(shallow.decoder), nnx.Param
    if method == "prompt_tuning":
        soft, chosen = soft_prompt(), SOFT
    elif method == "lora":
        attach_lora(decoder, ["query", "up"], 2, 2.0, nnx.Rngs(0))
        chosen = nnx.PathContains("lora")
    model, config = TunedDecoder(decoder, soft), CONFIG.model_copy(update=changes)
    given = {"seed": 0, "folder": folder, "mesh": mesh, "on_step": on_step}
    development = Validation(made_examples()[1:6]) if config.validate_every else None
    data = TrainingData(made_examples(), (0, 7), validation=development)
    result = train(model, chosen, data, config, **given)
    return result, leaves(model, chosen)


@pytest.mark.parametrize(
    ("method", "sizes", "options"),
    [
        ("prompt_tuning", None, {"validate_every": 3}),
        ("lora", None, {"gradient_accumulation_steps": 2}),
        ("fine_tuning", (2, 2, 2), {}),
    ],
)
def test_unpacked_steps_are_the_packed_ones(shallow, tmp_path, method, sizes, options):
    mesh = make_mesh(*sizes) if sizes else None
    runs = {
        packing: trained(shallow, method, tmp_path / packing, mesh=mesh, packing=packing, **options)
        for packing in ("best_fit", "none")
    }
    (packed, expected), (unpacked, found) = runs["best_fit"], runs["none"]
    np.testing.assert_allclose(unpacked.losses, packed.losses, rtol=1e-5)
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[path], atol=2e-3)
    told = {packing: read_rows(tmp_path / packing / "metrics.jsonl") for packing in runs}
    steps = [row for row in told["none"] if "loss" in row]
    assert [row["tokens"] for row in steps] == [
        row["tokens"] for row in told["best_fit"] if "loss" in row
    ]
    places = {round(row["tokens"] / (1 - row["padding"])) for row in steps}
    rows = 4 if sizes or "gradient_accumulation_steps" in options else 3
    assert places == {rows * 64, rows * 128}  # two shapes, each compiled once
    assert unpacked.padding_share == pytest.approx(np.mean([row["padding"] for row in steps]))
    checked = [
        [row["development_loss"] for row in rows if "loss" not in row] for rows in told.values()
    ]
    np.testing.assert_allclose(*checked, rtol=1e-5)


def test_an_unpacked_run_that_is_resumed_ends_with_the_same_bits(shallow, tmp_path):
    def stop(step, steps, note):
        if step == 4:
            raise KeyboardInterrupt

    options = {"packing": "none", "checkpoint_every": 2}
    expected, weights = trained(shallow, "prompt_tuning", tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        trained(shallow, "prompt_tuning", tmp_path / "cut", on_step=stop, **options)
    result, found = trained(shallow, "prompt_tuning", tmp_path / "cut", **options)
    assert result.losses == expected.losses
    jax.tree.map(np.testing.assert_array_equal, found, weights)
    logs = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    for one, other in zip(*logs, strict=True):
        assert one | {"time": None} == other | {"time": None}


def test_a_generated_corpus_is_packed(tmp_path):
    config = PretrainingConfig(name="a", training=CONFIG.model_copy(update={"packing": "none"}))
    with pytest.raises(UserError, match="training.packing none: a generated corpus is packed"):
        pretrain(config, tmp_path)
