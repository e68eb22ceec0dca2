"""The tokenizer of a Hugging Face folder or a GGUF file. Code in a folder is never run."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.pretrained.gguf.tokenizer import VOCABULARY, build_tokenizer, has_vocabulary
from adapt_jax.pretrained.hf_folder import read_json
from adapt_jax.pretrained.tokenization import call_tokenizer, find_leading_tokens
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import check_is_no_pointer
from adapt_jax.utils.torch_import import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TOKENIZER_FILES", "has_tokenizer", "read_tokenizer"]

# One of these holds the vocabulary.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "vocab.txt")
OTHER_FILES = ("merges.txt", "chat_template.jinja", "chat_template.json", "processor_config.json")
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MAX_SHOWN_BYTES = 4_000  # of what the library writes to stderr
MAX_TOKENS = 2**24  # the largest vocabularies have 2**18


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file with a vocabulary, or a GGUF file holds one."""
    if is_gguf(folder):
        return has_vocabulary(folder)
    named = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return named or any(folder.glob("*.model"))


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or a GGUF file, through transformers.

    Raises:
        UserError: there is none, or its files are damaged or Git LFS pointers.
    """
    if not has_tokenizer(folder):
        expected = VOCABULARY if is_gguf(folder) else ", ".join(TOKENIZER_FILES[:3])
        raise UserError(f"{folder}: no usable tokenizer (none of {expected} is there)")
    for name in (*TOKENIZER_FILES, *SETTINGS_FILES, *OTHER_FILES):
        if (folder / name).is_file():
            check_is_no_pointer(folder / name)
    for file in folder.glob("additional_chat_templates/*.jinja"):
        check_is_no_pointer(file)
    for name in SETTINGS_FILES:
        if (folder / name).is_file():
            read_json(folder / name)

    def read() -> "PreTrainedTokenizerBase":
        tokenizer = build_tokenizer(folder) if is_gguf(folder) else _read_folder(folder)
        _check_ids(tokenizer, folder)
        find_leading_tokens(tokenizer)  # some damage shows with the first text
        return tokenizer

    import_transformers()
    with _hold_back_stderr():
        return call_tokenizer(str(folder), read)


def _read_folder(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def _check_ids(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Raises UserError for an id for which the tokenizers library would fill all memory."""
    vocabulary = tokenizer.get_vocab()
    token = max(vocabulary, key=vocabulary.__getitem__, default="")
    if (highest := vocabulary.get(token, 0)) >= MAX_TOKENS:
        raise UserError(
            f"{folder}: no usable tokenizer (the token {display_text(repr(token), 40)} has the id "
            f"{highest:,}; ids below {MAX_TOKENS:,} are expected)"
        )


@contextmanager
def _hold_back_stderr() -> Iterator[None]:
    """Shows what is written to stderr only if the block succeeds.

    The Rust library of tokenizers writes lines of its own there before it raises, and names of the
    file as they are: they are made safe to show.
    """
    sys.stderr.flush()
    try:
        original = os.dup(2)
    except OSError:  # this process has no stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
            sys.stderr.flush()
            held.seek(0)
            for line in held.read(MAX_SHOWN_BYTES).decode("utf-8", "replace").splitlines():
                os.write(original, display_text(line).encode() + b"\n")
        finally:
            os.dup2(original, 2)
            os.close(original)
