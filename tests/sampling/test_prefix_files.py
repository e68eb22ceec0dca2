"""Encoded prefixes in files: bitwise those that are encoded, and never those of something else."""

import logging
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from adapt_jax.decoders.prefix import Prefix, SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.sampling import prefix_files
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.likelihood import encode_scoring_prefix
from adapt_jax.sampling.prefix_files import PrefixFiles, read_size_limit
from adapt_jax.sampling.types import GenerationConfig, Request
from adapt_jax.utils.errors import UserError

TOKENS = (5, 9, 200, 31, 77, 41, 8)
REQUESTS = [Request("one", (7, 12, 13)), Request("two", (90, 4))]
OPTIONS = GenerationConfig(max_new_tokens=6, temperature=0.8, candidates=2)


def open_files(folder: Path, model: PretrainedDecoder, limit: int = 1 << 24) -> PrefixFiles:
    return PrefixFiles(folder, model, "a decoder", limit)


def answer(model: PretrainedDecoder, prefixes: Any, files: PrefixFiles | None) -> Any:
    """The encoded prefixes of an engine, and what it generates."""
    engine = Engine(model, prefixes, OPTIONS, seed=3, prefix_files=files)
    requests = [
        Request(one.id, one.tokens, number % len(engine.prefixes))
        for number, one in enumerate(REQUESTS)
    ]
    return engine.encoded_prefixes, sorted(engine.run(requests), key=lambda one: one[:2])


def assert_identical(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes encoding a prefix fail, once it is called."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a prefix was encoded")

    return lambda: monkeypatch.setattr(prefix_files, "encode_prompt_prefix", refuse)


@pytest.mark.parametrize("name", ["deepseek_v3", "gemma4, per-layer embeddings", "qwen3_5"])
def test_what_is_read_is_what_was_encoded(name: str, made: Any, tmp_path: Path, no_encoding: Any):
    """Keys and values, latents, states, layers that share; one prefix, and two side by side."""
    model = made(name)[2]
    soft = SoftPrompt(np.random.default_rng(0).normal(size=(3, model.config.embed_dim)))
    both = [Prefix((TOKENS,)), Prefix(((2,), soft, (9, 4)))]
    alone, together = answer(model, both[0], None), answer(model, both, None)
    files = open_files(tmp_path / "kept", model)
    assert_identical(answer(model, both, files)[0], together[0])
    no_encoding()
    read = open_files(tmp_path / "kept", model)
    for expected, prefixes in ((alone, both[0]), (together, both)):
        encoded, candidates = answer(model, prefixes, read)
        assert_identical(encoded, expected[0])
        assert candidates == expected[1]
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_prefixes_of_scoring_are_read_too(tiny: Any, tmp_path: Path, no_encoding: Any):
    files, prefix = open_files(tmp_path, tiny), Prefix((TOKENS,))
    encoded = encode_scoring_prefix(tiny, prefix, files)
    no_encoding()
    assert_identical(encode_scoring_prefix(tiny, prefix, files), encoded)
    with pytest.raises(AssertionError, match="was encoded"):
        encode_scoring_prefix(tiny, Prefix((TOKENS[:-1],)), files)


def test_dtypes_of_states_and_of_keys_differ(tmp_path: Path, no_encoding: Any, made: Any):
    folder = made("qwen3_5")[0]
    model = load_pretrained(folder, dtype="bfloat16")
    expected = answer(model, Prefix((TOKENS,)), open_files(tmp_path, model))
    no_encoding()
    encoded, candidates = answer(model, Prefix((TOKENS,)), open_files(tmp_path, model))
    assert_identical(encoded, expected[0])
    assert candidates == expected[1]


def test_another_decoder_prefix_padding_or_processor_is_another_file(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prefix, soft = Prefix((TOKENS,)), np.zeros((7, 32), np.float32)
    files = open_files(tmp_path, tiny)
    found = [
        files._find_file(prefix, 32),
        files._find_file(prefix, 64),
        files._find_file(Prefix((TOKENS[::-1],)), 32),
        files._find_file(Prefix((TOKENS[:3], TOKENS[3:])), 32),
        files._find_file(Prefix((SoftPrompt(soft),)), 32),
        files._find_file(Prefix((SoftPrompt(soft + 1e-6),)), 32),
        PrefixFiles(tmp_path, tiny, "another one", 1)._find_file(prefix, 32),
    ]
    monkeypatch.setattr(prefix_files, "_describe_execution", lambda: "another processor")
    found.append(files._find_file(prefix, 32))
    assert len(set(found)) == len(found)


def test_weights_that_changed_since_are_encoded(tiny: Any, make_tiny_llama: Any, tmp_path: Path):
    """Training puts other arrays into the decoder, of the same shapes."""
    from flax import nnx

    model = load_pretrained(make_tiny_llama(tmp_path / "decoder"))
    other = load_pretrained(make_tiny_llama(tmp_path / "other", seed=5))
    files, prefix = open_files(tmp_path / "kept", model), Prefix((TOKENS,))
    first = answer(model, prefix, files)
    nnx.update(model.decoder, nnx.state(other.decoder))
    assert_identical(answer(model, prefix, files)[0], answer(other, prefix, None)[0])
    assert len(list((tmp_path / "kept").iterdir())) == 1  # and nothing is kept of it
    assert np.any(np.asarray(first[0].layers[0][0]) != answer(other, prefix, None)[0].layers[0][0])


def cut(content: bytes) -> bytes:
    return content[:-100]


def flip(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]


def empty(content: bytes) -> bytes:
    return b""


def replace_by_text(content: bytes) -> bytes:
    return b"keys and values" * 10


@pytest.mark.parametrize("damage", [cut, flip, empty, replace_by_text])
def test_a_damaged_file_is_replaced(
    damage: Any, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    prefix = Prefix((TOKENS,))
    expected = answer(tiny, prefix, open_files(tmp_path, tiny))
    [file] = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    with caplog.at_level(logging.WARNING):
        found = answer(tiny, prefix, open_files(tmp_path, tiny))
    assert_identical(found[0], expected[0])
    assert found[1] == expected[1]
    assert [f"{file}: is encoded again" in line for line in caplog.messages] == [True]
    assert file.read_bytes() == content


def test_a_file_of_other_shapes_is_replaced(tiny: Any, made: Any, tmp_path: Path):
    """Even where somebody gives it the name of another one."""
    other, prefix = made("deepseek_v3")[2], Prefix((TOKENS,))
    expected = answer(tiny, prefix, open_files(tmp_path / "one", tiny))
    answer(other, prefix, open_files(tmp_path / "other", other))
    [file], [foreign] = (tmp_path / "one").iterdir(), (tmp_path / "other").iterdir()
    file.write_bytes(foreign.read_bytes())
    assert_identical(answer(tiny, prefix, open_files(tmp_path / "one", tiny))[0], expected[0])


def test_the_files_that_were_not_used_for_longest_make_room(tiny: Any, tmp_path: Path):
    prefixes = [Prefix((TOKENS[:-n],)) for n in range(1, 4)]
    answer(tiny, prefixes[0], open_files(tmp_path, tiny))
    [first] = tmp_path.iterdir()
    files = open_files(tmp_path, tiny, limit=int(2.5 * first.stat().st_size))
    answer(tiny, prefixes[1], files)
    [second] = set(tmp_path.iterdir()) - {first}
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    answer(tiny, prefixes[0], files)  # is used
    answer(tiny, prefixes[2], files)
    assert first.exists() and not second.exists() and len(list(tmp_path.iterdir())) == 2
    answer(tiny, Prefix((TOKENS,)), open_files(tmp_path, tiny, limit=first.stat().st_size // 2))
    assert len(list(tmp_path.iterdir())) == 2  # larger than all that is allowed


def test_a_folder_that_cannot_be_written_is_no_error(tiny: Any, tmp_path: Path):
    (tmp_path / "kept").write_text("a file in its place")
    expected = answer(tiny, Prefix((TOKENS,)), None)
    found = answer(tiny, Prefix((TOKENS,)), open_files(tmp_path / "kept", tiny))
    assert found[1] == expected[1]


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("3", 3 << 20), (None, 1 << 30)])
def test_the_size_is_set_in_the_environment(text, size, monkeypatch: pytest.MonkeyPatch):
    if text is None:
        monkeypatch.delenv("ADAPT_JAX_PREFIX_CACHE_MIB", raising=False)
    else:
        monkeypatch.setenv("ADAPT_JAX_PREFIX_CACHE_MIB", text)
    assert read_size_limit() == size
    monkeypatch.setenv("ADAPT_JAX_PREFIX_CACHE_MIB", "much")
    with pytest.raises(UserError, match="PREFIX_CACHE_MIB: 'much'; expected a number of MiB"):
        read_size_limit()
