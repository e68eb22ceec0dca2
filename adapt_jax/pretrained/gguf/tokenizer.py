"""The tokenizer and chat template of a GGUF file, built by transformers from its metadata."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.pretrained.gguf.file import read_gguf
from adapt_jax.pretrained.gguf.pre_tokenizers import (
    ADDS_BOS,
    ALIASES,
    LIKE_GPT2,
    WHOLE_WORDS,
    build_pre_tokenizer,
)
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["VOCABULARY", "build_tokenizer", "has_vocabulary"]

log = logging.getLogger("adapt_jax")
MODEL, VOCABULARY = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# What a vocabulary of each kind is listed with.
NEEDED = {"gpt2": "merges", "llama": "scores", "t5": "scores"}


def has_vocabulary(path: Path) -> bool:
    """Whether the file lists tokens.

    Raises:
        UserError: it is damaged.
    """
    return bool(read_gguf(path).metadata.get(VOCABULARY))


def build_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer that the metadata describes.

    Raises:
        UserError: there is none, or one of a kind that transformers cannot build.
        Exception: whatever transformers raises for a damaged one.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_PRE_TOKENIZER_SPLITS,
        GGUF_TOKENIZER_MAPPING,
        GGUF_TOKENIZER_TYPES,
        convert_gguf_tokenizer,
    )

    file = read_gguf(path)
    metadata = file.metadata
    kind, tokens = metadata.get(MODEL), metadata.get(VOCABULARY)
    if kind not in GGUF_TOKENIZER_TYPES or not isinstance(tokens, list) or not tokens:
        known = ", ".join(GGUF_TOKENIZER_TYPES)
        raise UserError(
            f"{path}: no usable tokenizer ({MODEL} is {str(kind)[:40]!r}; expected one of {known})"
        )
    _check_lists(path, metadata, str(kind), len(tokens))
    parts = {
        name: metadata[f"tokenizer.{key}"]
        for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"tokenizer.{key}" in metadata
    }
    name = str(parts.get("pre_tokenizer_type", "default"))
    parts["pre_tokenizer_type"] = ALIASES.get(name, name)
    backend, _ = convert_gguf_tokenizer(file.architecture, parts)
    if kind == "gpt2":
        is_known = parts["pre_tokenizer_type"] in GGUF_PRE_TOKENIZER_SPLITS
        _set_pre_tokenizer(path, backend, name, is_known)
    special = {
        name: tokens[number]
        for name, key in SPECIAL_TOKENS.items()
        if (number := metadata.get(f"tokenizer.ggml.{key}")) is not None
    }
    # llama.cpp adds BOS to some vocabularies that do not say otherwise
    by_default = kind == "llama" or (kind == "gpt2" and name in ADDS_BOS)
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", by_default)
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        add_bos_token=bool(adds_bos) and "bos_token" in special,
        add_eos_token=bool(metadata.get("tokenizer.ggml.add_eos_token")) and "eos_token" in special,
        clean_up_tokenization_spaces=False,
        chat_template=metadata.get("tokenizer.chat_template"),
        **special,
    )
    # only now: while it makes a large vocabulary, transformers looks for a folder of this name
    tokenizer.name_or_path = str(path)
    return tokenizer


def _set_pre_tokenizer(path: Path, backend: "Tokenizer", name: str, is_known: bool) -> None:
    """Has a byte-level tokenizer divide text into words as its vocabulary was learned.

    Args:
        name: ``tokenizer.ggml.pre``.
        is_known: whether transformers has done so.
    """
    if (splits := build_pre_tokenizer(name)) is not None:
        backend.pre_tokenizer = splits
    elif not is_known and name not in LIKE_GPT2:
        log.warning(
            "%s: tokenizer.ggml.pre %r is not known: text is divided into words as by GPT-2, and "
            "some tokens may not be those of the model",
            path,
            name[:40],
        )
    if name in WHOLE_WORDS:
        backend.model.ignore_merges = True


def _check_lists(path: Path, metadata: Mapping[str, Any], kind: str, count: int) -> None:
    """Raises UserError where lists do not go together, or an id is that of no token."""
    needed = NEEDED.get(kind)
    if needed and not isinstance(metadata.get(f"tokenizer.ggml.{needed}"), list):
        raise UserError(f"{path}: no usable tokenizer (tokenizer.ggml.{needed} is missing)")
    for name in ("scores", "token_type"):
        found = metadata.get(f"tokenizer.ggml.{name}")
        if found is not None and len(found) != count:
            raise UserError(f"{path}: no usable tokenizer ({len(found)} {name} for {count} tokens)")
    for key in SPECIAL_TOKENS.values():
        number = metadata.get(f"tokenizer.ggml.{key}")
        if number is not None and not (isinstance(number, int) and 0 <= number < count):
            raise UserError(
                f"{path}: no usable tokenizer ({key} {number} is none of {count} tokens)"
            )
