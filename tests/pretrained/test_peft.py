"""PEFT's folders: what leaves is loaded by the real PEFT, what it wrote comes in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft_cases import ours, peft_adapter, soft, tampered, theirs, updates
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from adapt_jax.pretrained.peft.writing import write_lora, write_soft_prompt
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.utils.errors import UserError


def test_a_soft_prompt_leaves_and_peft_says_the_same(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    write_soft_prompt(tmp_path, soft(tiny), tiny)
    expected = ours(tiny, soft(tiny))
    assert expected != ours(tiny)
    assert theirs(tiny_folder, tmp_path, tiny) == expected
    again = read_adapter(tmp_path, tiny).soft_prompt
    assert again is not None and again.before_bos
    np.testing.assert_array_equal(again.embeddings[...], soft(tiny).embeddings[...])
    text = (tmp_path / ADAPTER_CONFIG).read_text()
    config = json.loads(text)
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    assert config["base_model_name_or_path"] == str(tiny_folder) and config["token_dim"] == 32


@pytest.mark.parametrize("stabilized", [False, True])
def test_low_rank_updates_leave_and_peft_says_the_same(
    stabilized: bool, tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    made = updates(tiny, "query", "output", "down", stabilized=stabilized)
    write_lora(tmp_path, made, tiny)
    expected = ours(made.merge_into(tiny))
    assert expected != ours(tiny)
    assert theirs(tiny_folder, tmp_path, tiny) == expected
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 6, stabilized)
    again = read_adapter(tmp_path, tiny).lora_weights
    assert again is not None
    assert again.merge_into(tiny).fingerprint == made.merge_into(tiny).fingerprint


def test_ranks_and_alphas_of_their_own_stand_in_patterns(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    made, other = updates(tiny, "query", "key"), updates(tiny, "up", rank=2)
    odd = next(iter(other.factors))
    both = LoRAWeights({**made.factors, odd: other.factors[odd]}, tiny.fingerprint)
    first = next(iter(made.factors))
    louder = LoRAFactors(both.factors[first].a, both.factors[first].b, 12.0)
    both = LoRAWeights({**both.factors, first: louder}, tiny.fingerprint)
    write_lora(tmp_path, both, tiny)
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert list(config["rank_pattern"].values()) == [2]
    assert list(config["alpha_pattern"].values()) == [12]
    assert theirs(tiny_folder, tmp_path, tiny) == ours(both.merge_into(tiny))
    again = read_adapter(tmp_path, tiny).lora_weights
    assert (
        again is not None
        and again.merge_into(tiny).fingerprint == both.merge_into(tiny).fingerprint
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 5}},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.1\.(self_attn|mlp)\.(k|gate)_proj"},
        {"layers_to_transform": [1], "modules_to_save": ["norm"]},
        {"layers_to_transform": 0, "layers_pattern": ["blocks", "layers"]},
    ],
    ids=["plain", "patterns", "all-linear", "expression", "a layer and a norm", "layers' name"],
)
def test_an_adapter_that_peft_made_comes_in_and_says_the_same(
    options: dict[str, Any], tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    peft_adapter(tiny_folder, tmp_path / "adapter", **options)
    adaptation = import_adapter(tmp_path / "adapter", tiny)
    expected = theirs(tiny_folder, tmp_path / "adapter", tiny)
    assert ours(adaptation.model) == expected != ours(tiny)


def test_biases_that_peft_trained_come_in(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "base", attention_bias=True)
    model = load_pretrained(folder)
    peft_adapter(folder, tmp_path / "adapter", bias="all")
    adaptation = import_adapter(tmp_path / "adapter", model)
    assert adaptation.has_full_weights and adaptation.lora_weights is None
    assert ours(adaptation.model) == theirs(folder, tmp_path / "adapter", model)


def test_prompt_tuning_that_peft_made_comes_in(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    adaptation = import_adapter(tmp_path / "adapter", tiny)
    assert adaptation.soft_prompt is not None and len(adaptation.soft_prompt) == 6
    expected = theirs(tiny_folder, tmp_path / "adapter", tiny)
    assert ours(tiny, adaptation.soft_prompt) == expected


def test_no_layers_to_transform_means_no_limit(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    write_lora(tmp_path, updates(tiny, "query"), tiny)
    tampered(tmp_path, {"layers_to_transform": []})
    again = read_adapter(tmp_path, tiny).lora_weights
    assert again is not None and len(again.factors) == 2
    assert theirs(tiny_folder, tmp_path, tiny) == ours(again.merge_into(tiny))


def test_an_adaptation_by_lora_saves_factors_and_answers_as_before(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    made = updates(tiny, "query", "up")
    prompt = Prompt(generation_config=GenerationConfig(max_new_tokens=4))
    adaptation = Adaptation("lora", prompt, made.merge_into(tiny), lora_weights=made)
    folder = adaptation.save(tmp_path / "saved")
    held = sorted(file.name for file in folder.iterdir())
    assert held == ["adaptation.json", ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    again = Adaptation.load(folder)
    assert again.model.fingerprint == adaptation.model.fingerprint != tiny.fingerprint
    assert (
        again.lora_weights is not None and again.lora_weights.base_fingerprint == tiny.fingerprint
    )
    assert theirs(tiny_folder, folder, tiny) == ours(adaptation.model)
    other = load_pretrained(write_tiny_llama(tmp_path / "other", seed=4))
    with pytest.raises(UserError, match="belongs to another decoder"):
        Adaptation.load(folder, other)
