"""GGUF files that are damaged, or hold what is not read, are one line."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_models import make
from tiny_llama import write_tiny_llama

from adapt_jax.pretrained.gguf import config as gguf_config
from adapt_jax.pretrained.gguf import file as gguf_file
from adapt_jax.pretrained.gguf import tokenizer as gguf_tokenizer
from adapt_jax.pretrained.hf_config import read_config
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.pretrained.tokenizer_folder import read_tokenizer
from adapt_jax.utils.errors import UserError

gguf = pytest.importorskip("gguf")
from gguf_files import write_gguf  # noqa: E402  (needs the package)

Kind = gguf.GGMLQuantizationType


def test_damaged_files_are_one_line(tmp_path):
    path = write_gguf(write_tiny_llama(tmp_path / "hf"), tmp_path / "m.gguf")
    content = path.read_bytes()
    damages = {
        "it does not begin with GGUF": b"GGML" + content[4:],
        "version 1": content[:4] + b"\x01" + content[5:],
        "it is big-endian": content[:4] + b"\x00\x00\x00\x03" + content[8:],
        "it names": content[:8] + b"\xff" * 8 + content[16:],
        "cut short: token_embd.weight": content[:-90000],
    }
    for said, damaged in damages.items():
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            load_pretrained(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 600
    for size in (*range(0, 400, 7), 5000, 9000, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match="not readable as GGUF"):
            load_pretrained(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general.architecture": "t5"}, "architecture 't5' is not supported in GGUF"),
        ({"llama.block_count": 3}, "9 tensors missing"),
        ({"llama.embedding_length": "wide"}, "embedding_length: 'wide'; expected a size"),
        ({"llama.attention.head_count": [4, 2]}, "differs between layers"),
        ({"llama.rope.scaling.type": "spiral"}, "rope.scaling.type 'spiral' is not supported"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'"),
        ({"tokenizer.ggml.tokens": None}, "no usable tokenizer (none of tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "2 token_type for 320 tokens"),
        ({"tokenizer.ggml.eos_token_id": 400}, "eos_token_id 400 is none of 320 tokens"),
    ],
)
def test_what_a_file_says_is_checked(tmp_path, metadata, said):
    hf = write_tiny_llama(tmp_path / "hf")
    path = write_gguf(hf, tmp_path / "m.gguf", metadata=metadata)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_pretrained(path)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("value", ["x", [1, 2], 0, 2**31, -1.5, True, None])
def test_no_metadata_ends_in_a_traceback(tmp_path, value):
    """Every key with a value of another type or size: read, or refused in one line."""
    hf = write_tiny_llama(tmp_path / "hf")
    path = write_gguf(hf, tmp_path / "m.gguf", extra={"rope_freqs.weight": np.ones(4, np.float32)})
    content = gguf_file.read_gguf(path)
    keys = [key for key in content.metadata if key.startswith(("llama.", "general.", "tokenizer."))]
    keys += ["llama.rope.scaling.type", "llama.expert_count", "llama.attention.sliding_window"]
    for key in keys:
        changed = replace(content, metadata={**content.metadata, key: value})
        with pytest.MonkeyPatch.context() as patch:
            for module in (gguf_config, gguf_tokenizer):
                patch.setattr(module, "read_gguf", lambda path, changed=changed: changed)
            for read in (read_config, read_tokenizer):
                try:
                    read(path)
                except UserError as mistake:
                    assert len(str(mistake)) < 1200


def test_a_tensor_that_is_not_known_is_refused_by_name(tmp_path):
    hf = write_tiny_llama(tmp_path / "hf")
    path = write_gguf(hf, tmp_path / "m.gguf", extra={"blk.0.attn_sinks": np.ones(4, np.float32)})
    with pytest.raises(UserError, match="1 tensor not known to this config: blk.0.attn_sinks"):
        load_pretrained(path)


def test_a_type_of_numbers_that_is_not_read_is_refused_by_name(tmp_path):
    hf = write_tiny_llama(tmp_path / "hf", hidden_size=256, head_dim=64, num_hidden_layers=1)
    blocks = np.zeros((320, gguf.GGML_QUANT_SIZES[Kind.Q8_K][1]), np.uint8)
    path = write_gguf(hf, tmp_path / "m.gguf", replaced={"token_embd.weight": (blocks, Kind.Q8_K)})
    with pytest.raises(UserError, match="token_embd.weight is Q8_K"):
        load_pretrained(path)


def test_experts_of_two_shapes_are_refused(tmp_path):
    pytest.importorskip("torch")
    make(tmp_path / "hf", "gpt_oss")
    wrong = (np.zeros((5, 40, 32), np.float32), Kind.F32)
    path = write_gguf(
        tmp_path / "hf", tmp_path / "m.gguf", replaced={"blk.0.ffn_up_exps.weight": wrong}
    )
    with pytest.raises(UserError, match=re.escape("ffn_up_exps.weight [5, 40, 32]")):
        load_pretrained(path)


def test_fewer_or_more_experts_than_the_metadata_says_are_refused(tmp_path):
    pytest.importorskip("torch")
    make(tmp_path / "hf", "qwen3_moe", mlp_only_layers=[])
    whole = gguf_file.read_gguf(write_gguf(tmp_path / "hf", tmp_path / "m.gguf"))
    count, *shape = whole.tensors["blk.0.ffn_up_exps.weight"].shape
    for other in (count - 1, count + 1):
        wrong = (np.zeros((other, *shape), np.float32), Kind.F32)
        path = write_gguf(
            tmp_path / "hf", tmp_path / "w.gguf", replaced={"blk.0.ffn_up_exps.weight": wrong}
        )
        said = f"ffn_up_exps.weight holds {other} experts, expected {count}"
        with pytest.raises(UserError, match=said):
            load_pretrained(path)


def write_header(path: Path, entries: bytes, keys: int) -> Path:
    """A GGUF file of metadata alone."""
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, keys) + entries)
    return path


def test_metadata_that_repeats_or_nests_is_refused(tmp_path):
    entry = struct.pack("<Q1sII", 1, b"k", 4, 7)  # k = 7 of uint32
    path = write_header(tmp_path / "twice.gguf", entry * 2, 2)
    with pytest.raises(UserError, match="it holds the key k twice"):
        gguf_file.read_gguf(path)
    arrays = struct.pack("<IQ", 9, 1) * 5000 + struct.pack("<IQ", 4, 0)
    path = write_header(tmp_path / "deep.gguf", struct.pack("<Q1sI", 1, b"k", 9) + arrays, 1)
    with pytest.raises(UserError, match="arrays in arrays"):
        gguf_file.read_gguf(path)


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    path = write_gguf(write_tiny_llama(tmp_path / "hf"), tmp_path / "m.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=re.escape("pip install adapt-jax[gguf]")):
        load_pretrained(path)


def test_an_old_package_is_named(tmp_path, monkeypatch):
    path = write_gguf(write_tiny_llama(tmp_path / "hf"), tmp_path / "m.gguf")
    monkeypatch.setattr(gguf, "MODEL_ARCH_NAMES", {})
    with pytest.raises(UserError, match="does not know the architecture 'llama': pip install -U"):
        load_pretrained(path)
