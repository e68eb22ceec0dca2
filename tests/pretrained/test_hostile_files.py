"""Damaged and hostile files: one line and no traceback, bounded in time and memory."""

import copy
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import CASES
from family_fields import sizes_of
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import FAMILIES
from adapt_jax.decoders.families.multimodal import TEXT_DECODERS
from adapt_jax.pretrained.config_checks import FIELD_CHECKS, find_type_problems
from adapt_jax.pretrained.hf_config import read_config
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft.folder import read_adapter
from adapt_jax.pretrained.peft.writing import write_lora
from adapt_jax.pretrained.safetensors_io import read_tensors
from adapt_jax.utils.errors import UserError

HOSTILE: list[Any] = [
    *([], {}, "x", "", True, None, -1, 0, 1.5, 10**9, 2**63, 10**300, 10**400, 1e300, -1e300),
    1e-300,
    *([1], ["x"], [[]], {"a": 1}, float("nan"), float("inf"), [None] * 2000, "9" * 5000),
]
SCALARS: list[Any] = [1, True, "layers", 2.5, None, [0], {"factor": 2.0}]


def refusal_or_nothing(call: Any, *args: Any) -> str:
    """What the UserError says that the call raises: one line of some length; or nothing."""
    try:
        call(*args)
    except UserError as mistake:
        said = str(mistake)
        assert said and "\n" not in said and len(said) < 8000, said
        return said
    return ""


def written_config(folder: Path, hf: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf))
    return folder


CHECKED = {  # what tiny Llamas say, each of another kind
    "vocab_size": HOSTILE,
    "num_hidden_layers": HOSTILE,
    "hidden_size": HOSTILE,
    "head_dim": [*HOSTILE[:5], *HOSTILE[6:]],  # null is allowed
    "rms_norm_eps": ["x", [], {}, True, None, -1, 1e300, 2**63],
    "tie_word_embeddings": ["no", 1, [], {}, None],
    "hidden_act": [1, [], {}, "", None, "x" * 500],
    "max_position_embeddings": [one for one in HOSTILE if one != 10**9],
    "rope_theta": ["x", [], True, -1, 0, 1e300, 10**300, 10**400],
    "rope_scaling": ["x", [1], {"rope_type": "linear", "factor": -1}, {"rope_type": ["x"]}],
    "bos_token_id": ["x", 1.5, [1], 2**63, True],
    "eos_token_id": ["x", 1.5, [[1]], ["x"], 2**63, True],
    "architectures": [[], "LlamaForCausalLM", [1], {"a": 1}, ["MistralForCausalLM"], None],
    "model_type": ["mistral", 1, [], {}, True],
}


@pytest.mark.parametrize("name", ["layer_types", "layers_block_type", "mlp_layer_types"])
def test_lists_of_layers_are_bounded(name: str) -> None:
    """Each layer is computed from such a list, which may also say how many layers there are."""
    assert not find_type_problems({name: ["mamba"] * 1000})
    for value in (["mamba"] * 1001, [1], "mamba"):
        assert find_type_problems({name: value})[0].startswith(f"{name}: expected a text for each")
    assert find_type_problems({"hybrid_override_pattern": "M" * 1001})


@pytest.mark.parametrize("name", CHECKED)
def test_a_field_of_another_type_or_range_is_named(name: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    hf = json.loads((folder / "config.json").read_text())
    started = time.monotonic()
    for value in CHECKED[name]:
        written_config(folder, hf | {name: value})
        said = refusal_or_nothing(read_config, folder)
        named = name if name not in ("architectures",) else "architecture"
        assert named in said and str(folder) in said, (value, said)
    assert time.monotonic() - started < 20


def test_every_check_is_that_of_a_field() -> None:
    assert FIELD_CHECKS.keys() <= {field.name for field in dataclasses.fields(DecoderConfig)}


@pytest.mark.slow
def test_other_families_read_no_hostile_field_into_an_error_of_python(tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING

    draws = np.random.default_rng(0)
    for model_type, fields in CASES.values():
        config = CONFIG_MAPPING[model_type](**copy.deepcopy({**sizes_of(model_type), **fields}))
        hf = json.loads(config.to_json_string(use_diff=False))
        hf["architectures"] = [
            next(name for name, one in FAMILIES.items() if one.model_type == model_type)
        ]
        assert refusal_or_nothing(read_config, written_config(tmp_path, hf)) == ""
        for name in hf:
            for number in draws.choice(len(HOSTILE) + len(SCALARS), 3, replace=False):
                value = [*HOSTILE, *SCALARS][number]
                written_config(tmp_path, hf | {name: value})
                refusal_or_nothing(read_config, tmp_path)


def test_architectures_and_model_type_agree_or_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    hf = json.loads((folder / "config.json").read_text())
    for architecture, family in FAMILIES.items():
        own, _ = TEXT_DECODERS.get(architecture, (family.model_type, ""))
        for model_type in {own, "llama", "cohere", "ernie4_5"}:
            changed = hf | {"architectures": [architecture], "model_type": model_type}
            said = refusal_or_nothing(read_config, written_config(folder, changed))
            assert ("and model_type says" in said) == (model_type != own), (architecture, said)
    for near in ("Cohere3ForCausalLM", "Ernie5ForCausalLM", "LlamaForCausalML", "Qwen2Model"):
        said = refusal_or_nothing(
            read_config, written_config(folder, hf | {"architectures": [near]})
        )
        assert f"architecture {near!r} is not supported" in said and "did you mean" not in said


def damage(content: bytes, draws: np.random.Generator) -> bytes:
    """The content with one piece of damage: of single bytes, of regions, or of a JSON value."""
    changed, size = bytearray(content), len(content)
    at, length = int(draws.integers(0, size)), int(draws.integers(1, 40))
    match int(draws.integers(0, 8)):
        case 0:
            changed[at] ^= 1 << int(draws.integers(0, 8))
        case 1:
            del changed[at : at + length]
        case 2:
            changed[at:at] = draws.bytes(length)
        case 3:
            del changed[at:]
        case 4:
            changed[at:at] = changed[at : at + length]
        case 5:
            changed[at : at + length] = b"\0" * length
        case _:
            return with_hostile_value(content, draws)
    return bytes(changed)


def with_hostile_value(content: bytes, draws: np.random.Generator) -> bytes:
    """A JSON text, or the header of a safetensors file, with one value replaced."""
    start = 8 if content[8:9] == b"{" else 0
    stop = 8 + int.from_bytes(content[:8], "little") if start else len(content)
    try:
        value = json.loads(content[start:stop])
    except ValueError:
        return content[:-1]
    holder, key = value, next(iter(value))
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[int(draws.integers(0, len(keys)))]
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or draws.random() < 0.3:
            break
        holder = inner
    holder[key] = [*HOSTILE, *SCALARS][int(draws.integers(0, len(HOSTILE) + len(SCALARS)))]
    text = json.dumps(value).encode()
    return (len(text).to_bytes(8, "little") + text + content[stop:]) if start else text


def use(folder: Path) -> None:
    """Loads a folder and puts a text through its tokenizer."""
    model = load_pretrained(folder)
    model.decode(model.encode("Jane has 12 apples."))


def fuzz_folder(original: Path, folder: Path, count: int, seed: int) -> int:
    """Damages a folder this often, one file each time; how many of them still load."""
    draws, loaded = np.random.default_rng(seed), 0
    files = sorted(file.name for file in original.iterdir())
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        file = folder / files[number % len(files)]
        file.write_bytes(damage(file.read_bytes(), draws))
        loaded += refusal_or_nothing(use, folder) == ""
    return loaded


def make_folder(folder: Path) -> Path:
    """A tiny Llama with every file that a folder may have."""
    write_tiny_llama(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eos|>"}))
    return folder


@pytest.mark.slow
def test_a_damaged_folder_loads_or_is_refused_in_one_line(tmp_path: Path) -> None:
    loaded = fuzz_folder(make_folder(tmp_path / "whole"), tmp_path / "damaged", 240, seed=0)
    assert 0 < loaded < 200


def fuzz_adapter(model: PretrainedDecoder, tmp_path: Path, count: int, seed: int) -> int:
    """The same for an adapter."""
    draws, imported = np.random.default_rng(seed), 0
    path = ("layers", 0, "attention", "query", "kernel")
    factors = {path: LoRAFactors(np.ones((2, 32), np.float32), np.ones((32, 2), np.float32), 4.0)}
    write_lora(tmp_path / "adapter", LoRAWeights(factors, model.fingerprint), model)
    for number in range(count):
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "adapter", tmp_path / "damaged")
        file = sorted((tmp_path / "damaged").iterdir())[number % 2]
        file.write_bytes(damage(file.read_bytes(), draws))
        imported += refusal_or_nothing(read_adapter, tmp_path / "damaged", model) == ""
    return imported


def test_a_damaged_adapter_is_imported_or_refused_in_one_line(
    tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    assert 0 < fuzz_adapter(tiny, tmp_path, 240, seed=0) < 200


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "merges.txt"),
        *("chat_template.jinja", "additional_chat_templates/tools.jinja"),
    ],
)
def test_a_git_lfs_pointer_is_named_as_one(name: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    oid = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 1044992\n"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(oid)
    said = refusal_or_nothing(load_pretrained, folder)
    assert f"{folder / name}" in said and "Git LFS pointer" in said and "git lfs pull" in said


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapter_model.safetensors", "tokenizer.json", "config.json"]
)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    name: str, tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name.startswith("adapter"):
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        assert refusal_or_nothing(read_adapter, folder, tiny)
        with pytest.raises(UserError, match="is no regular file"):
            read_tensors(folder / name)
    else:
        assert refusal_or_nothing(load_pretrained, folder)


def test_a_panic_of_the_tokenizer_library_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    folder = write_tiny_llama(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {}
    tokenizer["model"]["merges"] = []
    tokenizer["model"]["unk_token"] = "<none>"
    tokenizer["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = refusal_or_nothing(load_pretrained, folder)
    assert f"{folder}: no usable tokenizer (" in said
    assert "panicked" not in capfd.readouterr().err


def test_a_token_with_a_huge_id_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["a"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = refusal_or_nothing(load_pretrained, folder)
    assert "the token 'a' has the id 2,147,483,648" in said


def test_what_the_tokenizer_library_says_is_safe_to_show(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    folder = write_tiny_llama(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {"0": {"content": "<|bos|>", "\x1b[31mx": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    load_pretrained(folder)
    assert "\x1b" not in capfd.readouterr().err


def test_a_folder_without_a_tokenizer_names_the_files_that_are_missing(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / "tokenizer.json").unlink()
    said = refusal_or_nothing(load_pretrained, folder)
    assert "none of tokenizer.json, tokenizer.model, vocab.json is there" in said
