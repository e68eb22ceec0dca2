"""Damaged checkpoints: refused in one line that lists everything wrong at once."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_llama import write_tiny_llama

from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.utils.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
Q, K = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")


def refusal(folder: Path) -> str:
    """What loading the folder says: one line that names it."""
    with pytest.raises(UserError) as caught:
        load_pretrained(folder)
    said = str(caught.value)
    assert "\n" not in said and str(folder) in said
    return said


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Writes the file again with another header over the same data."""
    header, data = header_of(file)
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_no_bit_of_the_header_flips_unseen(tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path) / WEIGHTS
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    seen = bytearray(content[: 8 + length])
    where = seen.index(b'"format"')  # the one name that means nothing to this decoder
    draws = np.random.default_rng(0)
    positions = [*range(8), *draws.choice(np.arange(8, 8 + length), 40, replace=False)]
    for position in positions:
        if where <= position < where + len('"format"'):
            continue
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(draws.integers(0, 8))
        file.write_bytes(bytes(damaged))
        with pytest.raises(UserError) as caught:
            load_pretrained(tmp_path)
        assert WEIGHTS in str(caught.value) or "disagree" in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_named(share: float, tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path) / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    said = refusal(tmp_path)
    assert f"{file}: not readable as safetensors" in said and "missing" not in said


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path) / WEIGHTS
    file.write_bytes(file.read_bytes() + b"\0" * 12)
    assert "12 bytes follow the last tensor" in refusal(tmp_path)


def moved(header: dict[str, Any]) -> None:
    header[NORM]["data_offsets"] = [place - 4 for place in header[NORM]["data_offsets"]]


def exchanged(header: dict[str, Any]) -> None:
    for key in ("shape", "data_offsets"):
        header[Q][key], header[K][key] = header[K][key], header[Q][key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h[NORM].update(dtype="F33"), f"{NORM}: unknown dtype 'F33'"),
        (lambda h: h[NORM].update(shape=[33]), f"{NORM}: F32 [33] takes 132 bytes, its place has"),
        (lambda h: h[NORM].update(shape=[-32]), f"{NORM}: expected whole numbers"),
        (lambda h: h[NORM].pop("shape"), f"{NORM}: expected dtype, shape and data_offsets"),
        (lambda h: h[NORM].update(data_offsets=[8, 4]), "are no range"),
        (moved, "begins at byte"),
        (lambda h: h.update(__metadata__={"format": "xt"}), "unknown format 'xt'"),
        (lambda h: h[Q]["shape"].reverse() or h[K]["shape"].reverse(), f"{K} is [32, 16]"),
        (exchanged, f"{Q} is [16, 32]"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_config_is_refused(
    change: Any, said: str, tmp_path: Path
) -> None:
    with_header(write_tiny_llama(tmp_path) / WEIGHTS, change)
    assert said in refusal(tmp_path)


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, intermediate_size=48)
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.input_layernorm.wieght"] = tensors.pop(
        "model.layers.0.input_layernorm.weight"
    )
    tensors[Q], tensors[K] = tensors[K], tensors[Q]
    tensors[NORM] = tensors[NORM].astype(np.int8)
    save_file(tensors, folder / WEIGHTS)
    (folder / "tokenizer.json").write_text("{}")
    said = refusal(folder)
    for part in (
        "missing: model.layers.0.input_layernorm.weight",
        "not known to this config: model.layers.0.input_layernorm.wieght",
        f"{Q} is [16, 32], config.json says [32, 32]",
        f"{K} is [32, 32], config.json says [16, 32]",
        f"{NORM} is I8, expected one of",
        "no usable tokenizer",
    ):
        assert part in said


def test_config_and_files_are_both_reported(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    hf = json.loads((folder / "config.json").read_text())
    hf |= {"architectures": ["XLNetLMHeadModel"], "quantization_config": {"quant_method": "aqlm"}}
    hf["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(hf))
    (folder / WEIGHTS).write_bytes(b"\xff" * 100)
    said = refusal(folder)
    for part in (
        "quantised (aqlm)",
        "'XLNetLMHeadModel' is not supported",
        "never run",
        "safetens",
    ):
        assert part in said
    assert "docs/your_decoder.md lists" in said


def sharded(folder: Path) -> tuple[Path, list[str]]:
    """A folder with its weights in several files; their names."""
    save_pretrained(load_pretrained(write_tiny_llama(folder)), folder, max_shard_size="60KB")
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) == 3 and (folder / INDEX).is_file()
    return folder, files


def test_a_damaged_set_of_shards_is_reported_file_by_file(tmp_path: Path) -> None:
    folder, files = sharded(tmp_path)
    (folder / files[0]).unlink()
    content = (folder / files[1]).read_bytes()
    (folder / files[1]).write_bytes(content[:-4])
    said = refusal(folder)
    assert f"{folder / files[0]}: no such file" in said
    assert f"{folder / files[1]}: not readable as safetensors" in said and files[2] not in said


def test_an_index_that_names_the_wrong_files_is_refused(tmp_path: Path) -> None:
    folder, files = sharded(tmp_path)
    index = json.loads((folder / INDEX).read_text())
    swapped = {name: files[0] for name in index["weight_map"]}
    (folder / INDEX).write_text(json.dumps({"weight_map": swapped}))
    assert f"{files[0]}: lacks what {INDEX} says" in refusal(folder)
    for wrong in ("../model.safetensors", "pytorch_model-00001.bin", "x" * 300 + ".safetensors", 3):
        index["weight_map"][NORM] = wrong
        (folder / INDEX).write_text(json.dumps(index))
        assert f"expected safetensors files beside it, found {repr(wrong)[:80]}" in refusal(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {}}))
    assert "expected a weight_map" in refusal(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder, files = sharded(tmp_path)
    for file in files[:2]:
        tensors = load_file(folder / file)
        save_file(tensors | {NORM: np.ones(32, np.float32)}, folder / file)
    assert f"holds again {NORM} (also in " in refusal(folder)


def test_code_in_a_folder_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("configuration_own.py", "modeling_own.py", "tokenization_own.py"):
        (folder / name).write_text(code)
    hf = json.loads((folder / "config.json").read_text())
    hf["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.Own",
    }
    (folder / "config.json").write_text(json.dumps(hf))
    assert load_pretrained(folder).config.num_layers == 2  # a family that is known needs no code
    hf |= {"architectures": ["OwnForCausalLM"], "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(hf))
    assert "its own code (auto_map) is never run" in refusal(folder)
    hf |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(hf))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "Own",
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.Own"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "no usable tokenizer" in refusal(folder)
    assert not marker.exists()


class Bomb:
    """Says on a disk that it was unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    import pickle

    folder, marker = write_tiny_llama(tmp_path / "model"), tmp_path / "opened"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    assert load_pretrained(folder).config.num_layers == 2
    (folder / WEIGHTS).unlink()
    assert "optimizer.pt are never opened" in refusal(folder)
    assert not marker.exists()
