"""Adapters of families whose modules are fused, mixed or scaled: to PEFT and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_multimodal import make_multimodal
from peft_cases import (
    our_logits,
    ours,
    peft_adapter,
    soft,
    tampered,
    their_logits,
    theirs,
    updates,
)
from safetensors.numpy import load_file

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.adaptation.recipe import build_recipe
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft.folder import ADAPTER_WEIGHTS, read_adapter
from adapt_jax.pretrained.peft.writing import (
    check_peft_modules,
    write_lora,
    write_soft_prompt,
)
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.utils.errors import UserError


def assert_merged_alike(one: LoRAWeights, other: LoRAWeights, model: PretrainedDecoder) -> None:
    """Both update the decoder's kernels alike."""
    merged, expected = (get_parameters(each.merge_into(model).decoder) for each in (one, other))
    for path, kernel in expected.items():
        np.testing.assert_allclose(merged[path], kernel, atol=1e-5)


FUSED = ("phi3", "gpt2", "gpt_neox", "falcon, two norms", "bloom", "mpt", "qwen3_5")


@pytest.mark.parametrize("name", FUSED)
def test_updates_of_fused_parts_leave_as_one_block(name: str, made: Any, tmp_path: Path) -> None:
    folder, _, model = made(name)
    added = updates(model, "query", "value", "output", "up")
    write_lora(tmp_path, added, model)
    assert theirs(folder, tmp_path, model) == ours(added.merge_into(model)) != ours(model)
    again = read_adapter(tmp_path, model).lora_weights
    assert again is not None
    assert_merged_alike(again, added, model)


@pytest.mark.parametrize("name", [*FUSED, "minicpm3"])
def test_adapters_of_fused_modules_come_in(name: str, made: Any, tmp_path: Path) -> None:
    folder, _, model = made(name)
    peft_adapter(folder, tmp_path / "in", target_modules="all-linear")
    adaptation = import_adapter(tmp_path / "in", model)
    assert ours(adaptation.model) == theirs(folder, tmp_path / "in", model) != ours(model)
    assert adaptation.lora_weights is not None
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    first, second = (load_file(tmp_path / one / ADAPTER_WEIGHTS) for one in ("in", "out"))
    assert first.keys() == second.keys()  # what came in as one block leaves as that block
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_factors_of_latent_attention_leave_and_come_in(made: Any, tmp_path: Path) -> None:
    folder, _, model = made("deepseek_v3")
    added = updates(model, "query_down", "query_up", "kv_down", "kv_up", "output")
    write_lora(tmp_path, added, model)
    assert theirs(folder, tmp_path, model) == ours(added.merge_into(model)) != ours(model)
    again = read_adapter(tmp_path, model).lora_weights
    assert again is not None and again.factors.keys() == added.factors.keys()


@pytest.mark.parametrize("name", ["gemma", "gpt2", "bloom", "opt, norms of sums"])
def test_soft_prompts_live_behind_the_embeddings_scale(
    name: str, made: Any, tmp_path: Path
) -> None:
    folder, _, model = made(name)
    write_soft_prompt(tmp_path, soft(model), model)
    assert theirs(folder, tmp_path, model) == ours(model, soft(model)) != ours(model)


MIXTURES = ("qwen3_moe", "deepseek_v3", "qwen3_next", "llama4", "lfm2_moe", "granitemoeshared")


@pytest.mark.parametrize("name", MIXTURES)
def test_dense_layers_and_shared_experts_of_a_mixture_leave_as_parameters(
    name: str, made: Any, tmp_path: Path
) -> None:
    """PEFT takes modules named up_proj for those of experts; factors differ in rank."""
    folder, _, model = made(name)
    added = updates(model, "query", "output", "up", "down")
    added.factors.update(updates(model, "up", rank=2).factors)
    assert {"up", "down"} <= {path[-2] for path in added.factors}
    write_lora(tmp_path, added, model)
    assert theirs(folder, tmp_path, model) == ours(added.merge_into(model)) != ours(model)
    again = read_adapter(tmp_path, model).lora_weights
    assert again is not None
    assert_merged_alike(again, added, model)


def test_factors_that_peft_refuses_are_named(made: Any) -> None:
    """Its list of model types and modules: peft.tuners.tuners_utils (0.21)."""
    _, _, model = made("mamba2")
    check_peft_modules(updates(model, "value", "time_step"), model)
    with pytest.raises(UserError, match=r"PEFT allows no LoRA on out_proj.* lora\.modules"):
        check_peft_modules(updates(model, "output"), model)
    _, _, model = made("mamba")
    with pytest.raises(UserError, match=r"PEFT allows no LoRA on dt_proj.* lora\.modules"):
        check_peft_modules(updates(model, "time_step"), model)
    _, _, model = made("deepseek_v3")
    dense = ("layers", 0, "ffn", "up", "kernel")
    factors = updates(model, "up").factors[dense]
    magnitude = np.ones(factors.b.shape[0], np.float32)
    added = LoRAWeights({dense: replace(factors, magnitude=magnitude)}, model.fingerprint)
    with pytest.raises(UserError, match=r"PEFT allows no DoRA of .*mlp\.up_proj\.weight"):
        check_peft_modules(added, model)


# PEFT's names of the experts: found by it, in groups that alternate, beside the router's
EXPERTS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"target_modules": "all-linear"},
    "gpt_oss": {
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "use_rslora": True,
    },
    "granitemoe": {
        "target_modules": [],
        "target_parameters": ["router.weight", "experts.down_proj"],
    },
}


@pytest.mark.parametrize("name", EXPERTS)
def test_factors_of_experts_come_in_and_leave(name: str, made: Any, tmp_path: Path) -> None:
    folder, _, model = made(name)
    peft_adapter(folder, tmp_path / "in", **EXPERTS[name])
    adaptation = import_adapter(tmp_path / "in", model)
    expected = theirs(folder, tmp_path / "in", model)
    assert ours(adaptation.model) == expected != ours(model)
    assert adaptation.lora_weights is not None
    assert any(factors.a.ndim == 3 for factors in adaptation.lora_weights.factors.values())
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    first, second = (load_file(tmp_path / one / ADAPTER_WEIGHTS) for one in ("in", "out"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert theirs(folder, tmp_path / "out", model) == expected


def test_factors_of_some_experts_kernels_leave_as_one_block(made: Any, tmp_path: Path) -> None:
    """Gates have other factors than up projections; one layer has none."""
    folder, _, model = made("gpt_oss")
    draws = np.random.default_rng(1)
    shapes = {path: value.shape for path, value in get_parameters(model.decoder).items()}

    def draw(path: Any, rank: int) -> LoRAFactors:
        experts, inputs, outputs = shapes[path]
        a = draws.normal(0, 0.3, (experts, rank, inputs)).astype(np.float32)
        return LoRAFactors(
            a, draws.normal(0, 0.3, (experts, outputs, rank)).astype(np.float32), 6.0
        )

    paths = {("layers", 1, "ffn", name): rank for name, rank in (("gate", 2), ("up", 3))}
    added = LoRAWeights({path: draw(path, rank) for path, rank in paths.items()}, model.fingerprint)
    write_lora(tmp_path, added, model)
    assert theirs(folder, tmp_path, model) == ours(added.merge_into(model)) != ours(model)
    again = read_adapter(tmp_path, model).lora_weights
    assert again is not None
    assert_merged_alike(again, added, model)


def test_factors_of_experts_that_do_not_fit_are_refused(made: Any, tmp_path: Path) -> None:
    folder, _, model = made("gpt_oss")
    options = {"target_modules": [], "target_parameters": ["experts.down_proj"]}
    peft_adapter(folder, tmp_path, **options)
    tampered(tmp_path, {"target_parameters": ["experts.gate_up_proj"]})
    with pytest.raises(
        UserError,
        match=r"gate_up_proj: lora_A is .*, expected .*gate_up_proj: lora_B is .*, expected ",
    ):
        read_adapter(tmp_path, model)
    tampered(tmp_path, {"target_parameters": ["experts.down_proj_bias"]})
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.experts: no module of"):
        read_adapter(tmp_path, model)


@pytest.mark.parametrize("name", ["gemma4, experts", "gemma4, per-layer embeddings"])
def test_all_that_peft_finds_with_experts_and_in_per_layer_embeddings_comes_in_and_leaves(
    name: str, made: Any, tmp_path: Path
) -> None:
    folder, _, model = made(name)
    peft_adapter(folder, tmp_path / "in", target_modules="all-linear")
    adaptation = import_adapter(tmp_path / "in", model)
    expected = theirs(folder, tmp_path / "in", model)
    assert ours(adaptation.model) == expected != ours(model)
    assert adaptation.lora_weights is not None
    places = {path[-2] for path in adaptation.lora_weights.factors}
    assert places > {"query", "key", "value", "output", "gate", "up", "down"}
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    assert theirs(folder, tmp_path / "out", model) == expected


def test_factors_of_the_output_come_in_and_leave(made: Any, tmp_path: Path) -> None:
    folder, _, model = made("gpt_neox")
    peft_adapter(folder, tmp_path / "in", target_modules=["lm_head", "dense"])
    adaptation = import_adapter(tmp_path / "in", model)
    expected = theirs(folder, tmp_path / "in", model)
    assert ours(adaptation.model) == expected != ours(model)
    assert adaptation.lora_weights is not None
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    assert theirs(folder, tmp_path / "out", model) == expected


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_5_vl", "smolvlm", "llama4"])
def test_adapters_of_multimodal_checkpoints_name_modules_of_the_whole_model(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """AutoModelForCausalLM reads the text decoder of Llama 4 alone, and adapters name that."""
    folder, whole = tmp_path / "decoder", "CausalLM" if kind == "llama4" else "ImageTextToText"
    make_multimodal(folder, kind)
    model = load_pretrained(folder)
    added = updates(model, "query", "down")
    added.factors.update(updates(model, "down", rank=2).factors)
    write_lora(tmp_path / "out", added, model)
    expected = their_logits(folder, tmp_path / "out", model, whole)
    found = our_logits(added.merge_into(model))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found - our_logits(model)).max() > 0.1 * np.abs(found).max()
    again = read_adapter(tmp_path / "out", model).lora_weights
    assert again is not None
    assert_merged_alike(again, added, model)
    recipe = build_recipe(Adaptation("adapted", Prompt(), model, lora_weights=added), "peft")
    assert f"model = AutoModelFor{whole}.from_pretrained" in recipe
    if kind == "llama4":
        return
    # one that adapts the tower for images, too
    peft_adapter(folder, tmp_path / "in", whole, target_modules="all-linear")
    adaptation = import_adapter(tmp_path / "in", model)
    expected = their_logits(folder, tmp_path / "in", model, whole)
    np.testing.assert_allclose(
        our_logits(adaptation.model), expected, atol=1e-4 * np.abs(expected).max()
    )
    assert "left out, which read no text" in caplog.text


@pytest.mark.parametrize("name", ["gemma3n", "falcon_h1"])
def test_soft_prompts_of_decoders_that_need_tokens_are_refused(
    name: str, made: Any, tmp_path: Path
) -> None:
    """Gemma 3n has no per-layer embeddings without tokens, and Falcon-H1 no scale."""
    _, _, model = made(name)
    with pytest.raises(UserError, match="PEFT's prompt tuning gives .* embeddings in place of"):
        write_soft_prompt(tmp_path, soft(model), model)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("gemma3n", "all-linear"),
        ("bamba", "all-linear"),
        ("falcon_h1", ["in_proj", "q_proj", "v_proj", "o_proj", "gate_proj"]),
        ("mamba", ["in_proj", "x_proj"]),
    ],
)
def test_factors_of_streams_and_mixers_leave_and_come_in(
    name: str, modules: Any, made: Any, tmp_path: Path
) -> None:
    """The projections of streams are called 0, 1 and 2, as layers are."""
    folder, _, model = made(name)
    peft_adapter(folder, tmp_path / "in", target_modules=modules)
    adaptation = import_adapter(tmp_path / "in", model)
    expected = theirs(folder, tmp_path / "in", model)
    assert ours(adaptation.model) == expected != ours(model)
    assert adaptation.lora_weights is not None
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    assert theirs(folder, tmp_path / "out", model) == expected
