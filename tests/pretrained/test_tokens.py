"""Texts to token ids and back: BOS once, EOS never, nothing without an embedding."""

import json
from pathlib import Path

import pytest
from conftest import write_tiny_llama

from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.utils.errors import UserError


def test_bos_stands_once(tiny: PretrainedDecoder) -> None:
    bos = tiny.config.bos_id
    text = "Jane has 12 apples."
    ids = tiny.encode(text)
    assert ids[0] == bos and ids.count(bos) == 1
    assert tiny.encode(text, bos=False) == ids[1:]
    assert tiny.encode("") == [bos]
    assert tiny.encode("", bos=False) == []


def test_a_tokenizer_without_bos_gets_none_and_eos_is_never_added(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    plain = load_pretrained(folder).encode("12 apples", bos=False)
    end = {"SpecialToken": {"id": "<|eos|>", "type_id": 0}}
    special = {"<|eos|>": {"id": "<|eos|>", "ids": [1], "tokens": ["<|eos|>"]}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    processor = {"type": "TemplateProcessing", "single": [text, end], "pair": [text, end]}
    tokenizer["post_processor"] = processor | {"special_tokens": special}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_pretrained(folder).encode("12 apples") == plain


def test_any_text_survives_encoding_with_digits_apart(tiny: PretrainedDecoder) -> None:
    text = "Zoë paid €1,234.50 —\n\n  twice. { } Q: 日本"
    assert tiny.decode(tiny.encode(text)) == text
    assert [tiny.decode([token]) for token in tiny.encode("123", bos=False)] == ["1", "2", "3"]


def test_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    model = load_pretrained(write_tiny_llama(tmp_path))
    model.tokenizer.add_tokens(["<|new|>"] + [f"<|more{n}|>" for n in range(320)])
    with pytest.raises(UserError, match="320 embeddings"):
        model.encode("hello <|more319|>")
