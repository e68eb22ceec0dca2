"""Every family out of a folder and into one: bit-exact, and transformers loads it."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import CASES
from family_fields import SIZES
from family_models import choose_attention, run, tokens
from family_multimodal import INSIDE, make_multimodal

from adapt_jax.decoders.families import find_family
from adapt_jax.decoders.families.multimodal import TEXT_DECODERS, TEXT_SIZES
from adapt_jax.decoders.rope import Rope
from adapt_jax.pretrained.hf_config import read_config
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.utils.errors import UserError


@pytest.mark.parametrize("name", CASES)
def test_a_saved_folder_is_bit_exact_and_transformers_loads_it(
    name: str, made: Any, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    _, model, ours = made(name)
    save_pretrained(ours, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation=choose_attention(name)
    )
    there = again.state_dict()
    assert all(torch.equal(value, there[key]) for key, value in model.state_dict().items())
    ids = torch.tensor(tokens(1, 40))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert load_pretrained(tmp_path).config == ours.config


@pytest.mark.parametrize("model_type", TEXT_SIZES)
def test_sizes_that_a_text_part_leaves_out_are_those_of_transformers(model_type: str) -> None:
    """The real LLaVA 1.5 and Gemma 3 4B leave out several."""
    from transformers import CONFIG_MAPPING

    theirs = CONFIG_MAPPING[model_type]()
    assert {key: getattr(theirs, key) for key in TEXT_SIZES[model_type]} == TEXT_SIZES[model_type]
    outer = next(name for name, (_, text) in TEXT_DECODERS.items() if text == model_type)
    hf = {
        "architectures": [outer],
        "text_config": {"model_type": model_type, "intermediate_size": 64},
    }
    config = find_family(outer, hf).to_config(hf)
    assert config.ffn_dim == 64 and config.num_layers == theirs.num_hidden_layers


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_flat_files_of_qwen_with_images_mean_the_same(kind: str) -> None:
    """As they are on the hub: the fields of the text decoder stand beside those of images."""
    from transformers import CONFIG_MAPPING

    sizes = {key: value for key, value in SIZES.items() if "eos" not in key}
    flat = {**sizes, "rope_theta": 777.0, "rope_scaling": {"type": "mrope", "mrope_section": [2]}}
    outer = next(name for name, (one, _) in TEXT_DECODERS.items() if one == kind)
    theirs = CONFIG_MAPPING[kind](**copy.deepcopy(flat)).to_dict()
    found, expected = (find_family(outer, hf).to_config(hf) for hf in (flat, theirs))
    assert found == expected and found.layer_configs[0].rope == Rope(theta=777.0)


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("MllamaForConditionalGeneration", "attend to images"),
        ("PaliGemmaForConditionalGeneration", "both"),
    ],
)
def test_text_decoders_that_need_more_are_refused_with_the_reason(
    architecture: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    with pytest.raises(UserError, match=f"{architecture}' is not supported: .*{why}"):
        read_config(tmp_path)


@pytest.mark.parametrize("kind", INSIDE)
def test_the_text_decoder_comes_out_of_a_multimodal_checkpoint(kind: str, tmp_path: Path) -> None:
    import torch

    model = make_multimodal(tmp_path, kind)
    ours = load_pretrained(tmp_path)
    assert ours.config.eos_ids == (7,)
    if kind == "qwen3_vl_moe":  # transformers 5 writes another orientation than the hub has
        _transpose_experts(tmp_path / "model.safetensors")
        assert load_pretrained(tmp_path).fingerprint == ours.fingerprint
    ids = tokens(2, 40)
    with torch.no_grad():
        # the whole model of Llama 4 fails without images in transformers 5.24
        reference = model.language_model if kind == "llama4" else model
        expected = reference(input_ids=torch.tensor(ids)).logits.numpy()
    # around a text decoder, transformers leaves out by what its logits are divided
    expected = expected / ours.config.logit_divisor
    found = run(ours.decoder, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    save_pretrained(ours, tmp_path / "text")  # as the text decoder alone
    assert load_pretrained(tmp_path / "text").fingerprint == ours.fingerprint


def _transpose_experts(file: Path) -> None:
    """Rewrites the experts as files on the hub have them: [experts, in, out]."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name] = np.ascontiguousarray(tensors[name].swapaxes(1, 2))
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_text_decoder_of_gemma_3n_is_found_between_its_towers(
    made: Any, tmp_path: Path
) -> None:
    """transformers makes no such checkpoint without the package of its tower for images."""
    from safetensors.numpy import load_file, save_file

    folder, _, ours = made("gemma3n")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    hf = {"text_config": json.loads((folder / "config.json").read_text()), "eos_token_id": [7]}
    hf |= {"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n"}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("model.", "model.language_model.", 1): value for name, value in tensors.items()
    }
    towers = ("vision_tower.timm_model.stem", "audio_tower.conformer.0", "embed_vision.embedding")
    renamed |= {f"model.{name}.weight": np.ones((2, 2), np.float32) for name in towers}
    save_file(renamed, tmp_path / "model.safetensors")
    found = load_pretrained(tmp_path)
    assert found.config.eos_ids == (7,)
    ids = tokens(1, 20)
    assert np.array_equal(run(found.decoder, ids), run(ours.decoder, ids))


def test_mistral_with_layer_types_is_read_as_ministral(made: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder, _, ours = made("ministral")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    hf = json.loads((folder / "config.json").read_text())
    hf |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    assert read_config(tmp_path)[1] == ours.config
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    ids = tokens(1, 48)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    found = run(load_pretrained(tmp_path).decoder, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_tensors_named_without_their_prefix_are_found(name: str, made: Any, tmp_path: Path) -> None:
    """As the base class of transformers saves them; both decoders have tied embeddings."""
    from safetensors.numpy import load_file, save_file

    folder, _, ours = made(name)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("model."): value for key, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, tmp_path / "model.safetensors")
    assert load_pretrained(tmp_path).fingerprint == ours.fingerprint


def test_keys_and_values_of_layers_that_read_others_are_left_unread(
    made: Any, tmp_path: Path
) -> None:
    folder, _, ours = made("gemma4, per-layer embeddings")
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    beside = {f"model.layers.4.self_attn.{part}.weight" for part in ("k_proj", "v_proj", "k_norm")}
    tensors |= {name: np.ones((2, 2), np.float32) for name in beside}
    save_file(tensors, tmp_path / "model.safetensors")
    ids = tokens(1, 20)
    assert np.array_equal(run(load_pretrained(tmp_path).decoder, ids), run(ours.decoder, ids))
    tensors["model.layers.0.self_attn.z_proj.weight"] = np.ones((2, 2), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not known to this config: model.layers.0.self_attn.z"):
        load_pretrained(tmp_path)
