"""Tokenizers inside GGUF files are those of transformers."""

from pathlib import Path

import pytest
from tiny_llama import write_tiny_llama

from adapt_jax.pretrained.tokenizer_folder import read_tokenizer

pytest.importorskip("gguf")
from gguf_files import write_gguf  # noqa: E402  (needs the package)


def test_a_sentencepiece_vocabulary_is_read_as_transformers_reads_it(tmp_path):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    words = ["\u2581", "\u2581a", "b", "ab", "\u2581ab", "c", "bc", "\u2581abc", "a"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *words]
    types = [2, 3, 3, *([6] * 256), *([1] * len(words))]
    tokens += [f"[PAD{n}]" for n in range(len(tokens), 320)]
    types += [5] * (320 - len(types))
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(n) for n in range(320)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.add_bos_token": None,
    }
    path = write_gguf(write_tiny_llama(tmp_path / "hf"), tmp_path / "m.gguf", metadata=metadata)
    ours, theirs = read_tokenizer(path), AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("abc ab", "  c", "xé", "a</s>b", ""):
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids
        assert ids[:1] == [1]  # llama.cpp adds BOS where nothing is said
        assert ours.decode(ids) == theirs.decode(ids)


def read_words(folder: Path, name: str | None, text: str) -> list[str]:
    """The words that a tokenizer with this ``tokenizer.ggml.pre`` divides a text into."""
    hf = write_tiny_llama(folder / "hf")
    path = write_gguf(hf, folder / "m.gguf", metadata={"tokenizer.ggml.pre": name})
    splits = read_tokenizer(path).backend_tokenizer.pre_tokenizer
    return [text[begin:end] for _, (begin, end) in splits.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-2", ["a", " (", "b", ")", " 12345", "\n"]),
        ("smollm", ["a", " (", "b", ")", " ", "1", "2", "3", "4", "5", "\n"]),
        ("llama-bpe", ["a", " (", "b", ")", " ", "123", "45", "\n"]),
        ("glm4", ["a", " (", "b", ")", " ", "123", "45", "\n"]),
        ("qwen2", ["a", " (", "b", ")", " ", "1", "2", "3", "4", "5", "\n"]),
        ("stablelm2", ["a", " (", "b", ")", " ", "1", "2", "3", "4", "5", "\n"]),
        ("seed-coder", ["a", " (", "b", ")", " ", "1", "2", "3", "4", "5", "\n"]),
        ("deepseek-v3", ["a", " (", "b", ")", " ", "123", "45", "\n"]),
        ("bloom", ["a", " (", "b", ")", " 12345", "\n"]),
        ("deepseek-llm", ["a", " (", "b", ")", " ", "12345", "\n"]),
        ("youtu", ["a", " (", "b", ")", " ", "1", "2", "3", "4", "5", "\n"]),
        ("falcon", ["a", " ", "(", "b", ")", " ", "123", "45", "\n"]),
    ],
)
def test_text_is_divided_into_words_as_the_vocabulary_was_learned(tmp_path, name, words, caplog):
    assert read_words(tmp_path, name, "a (b) 12345\n") == words
    assert "tokenizer.ggml.pre" not in caplog.text


@pytest.mark.parametrize("name", [None, "default", "newest"])
def test_an_unknown_way_of_dividing_text_is_said(tmp_path, name, caplog):
    assert read_words(tmp_path, name, "a 12") == ["a", " 12"]
    assert f"tokenizer.ggml.pre {name or 'default'!r} is not known" in caplog.text


def test_llama_3_begins_with_bos_and_takes_whole_words(tmp_path):
    """Where a file says nothing of BOS, llama.cpp adds it."""
    metadata = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}
    path = write_gguf(write_tiny_llama(tmp_path / "hf"), tmp_path / "m.gguf", metadata=metadata)
    tokenizer = read_tokenizer(path)
    assert tokenizer("Jane").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.backend_tokenizer.model.ignore_merges


def test_a_large_vocabulary_is_not_looked_for_on_the_hub(tmp_path):
    hf = write_tiny_llama(tmp_path / "hf", vocab_size=100_100, hidden_size=8, head_dim=2)
    path = write_gguf(hf, tmp_path / "m.gguf")
    tokenizer = read_tokenizer(path)
    assert tokenizer("Jane has 2").input_ids == read_tokenizer(hf)("Jane has 2").input_ids
