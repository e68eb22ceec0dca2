"""Every family out of a folder and into one: bit-exact, and transformers loads it."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import CASES, SIZES, run, tokens
from tiny_llama import tiny_tokenizer

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
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    there = again.state_dict()
    assert all(torch.equal(value, there[key]) for key, value in model.state_dict().items())
    ids = torch.tensor(tokens(1, 40))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert load_pretrained(tmp_path).config == ours.config


@pytest.mark.parametrize("kind", ["gemma3", "gemma4", "mistral3", "llama4"])
def test_the_text_decoder_comes_out_of_a_multimodal_checkpoint(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    inner = {
        "gemma3": ("gemma3", "siglip_vision_model"),
        "gemma4": ("gemma4, per-layer embeddings", "gemma4_vision"),
        "mistral3": ("ministral3", "pixtral"),
        "llama4": ("llama4", "llama4_vision_model"),
    }
    text_case, vision_type = inner[kind]
    model_type, changes = CASES[text_case]
    text = CONFIG_MAPPING[model_type](**copy.deepcopy({**SIZES, **changes}))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    vision |= {"num_attention_heads": 2, "num_key_value_heads": 2, "patch_size": 14}
    vision |= {"image_size": 28} if kind != "gemma4" else {"position_embedding_size": 16}
    if kind == "llama4":
        vision |= dict.fromkeys(("vision_output_dim", "projector_input_dim"), 16)
        vision["projector_output_dim"] = 16
    config = CONFIG_MAPPING[kind](
        text_config=text.to_dict(),
        vision_config={"model_type": vision_type, **vision},
        tie_word_embeddings=kind == "gemma4",
        eos_token_id=7,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape) * 0.2)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    ours = load_pretrained(tmp_path)
    assert ours.config.eos_ids == (7,)
    ids = tokens(2, 40)
    with torch.no_grad():
        # the whole model of Llama 4 fails without images in transformers 5.24
        reference = model.language_model if kind == "llama4" else model
        expected = reference(input_ids=torch.tensor(ids)).logits.numpy()
    found = run(ours.decoder, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


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
def test_tensors_named_without_what_stands_in_front_are_found(
    name: str, made: Any, tmp_path: Path
) -> None:
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
