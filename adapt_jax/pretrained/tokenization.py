"""Text to token ids and back, with BOS exactly once. User text never becomes a control token."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from adapt_jax.pretrained.control_tokens import (
    find_control_tokens,
    mark_control_tokens,
    split_at_marks,
)
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "call_tokenizer",
    "count_common_prefix",
    "decode",
    "describe_tokenizer",
    "encode",
    "encode_chat",
    "find_leading_tokens",
]

T = TypeVar("T")


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    *,
    bos: bool = True,
    vocab_size: int,
    eos_ids: Iterable[int] = (),
) -> list[int]:
    """Token ids of a text. What spells a control token in it, such as ``</s>``, stays text.

    Args:
        bos: whether the ids begin as the tokenizer begins a text: with one BOS, where it has one.
            EOS is never added.
        eos_ids: ids that end an answer; the text does not become one of them either.

    Raises:
        UserError: the tokenizer is damaged, or has a token for which the decoder has no embedding.
    """
    text = _replace_surrogates(text)
    ids = _tokenize(tokenizer, text, split_special_tokens=True)
    control = find_control_tokens(tokenizer, ids=eos_ids)
    if not set(control.values()).isdisjoint(ids):
        # added tokens that are not declared special, or words of the vocabulary itself
        ids = _encode_pieces(tokenizer, split_at_marks(mark_control_tokens(text, control)))
    if bos:
        ids = [*find_leading_tokens(tokenizer), *ids]
    return _check_embeddings(tokenizer, ids, vocab_size)


def encode_chat(tokenizer: "PreTrainedTokenizerBase", text: str, *, vocab_size: int) -> list[int]:
    """Token ids of a conversation that ``chat.render_chat`` gave.

    The template's control tokens become what they spell; those between marks stay text. A template
    writes BOS itself, so none is added.

    Raises:
        UserError: as ``encode``.
    """
    ids = _encode_pieces(tokenizer, split_at_marks(_replace_surrogates(text)))
    return _check_embeddings(tokenizer, ids, vocab_size)


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of token ids, without special tokens and without any tidying of spaces."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """All of a tokenizer that decides on token ids and texts, as JSON data for an identity.

    It is the same for a tokenizer that is read from a folder and one that was made in memory.
    """
    _tokenize(tokenizer, "a")  # resets padding and cutting of texts, which an earlier call may set
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        vocabulary = backend.to_str()
    else:
        vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return {
        "vocabulary": hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest(),
        "added_tokens": {
            number: [token.content, token.special]
            for number, token in tokenizer.added_tokens_decoder.items()
        },
        "special_tokens": {name: str(one) for name, one in tokenizer.special_tokens_map.items()},
        "leading_tokens": find_leading_tokens(tokenizer),
        "chat_template": tokenizer.chat_template,
        "chat_control_tokens": getattr(tokenizer, "chat_control_tokens", None),
    }


def count_common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def find_leading_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that this tokenizer itself puts before a text: BOS, for most; none, for some."""
    return list(_find_leading_tokens(tokenizer, len(tokenizer)))


@lru_cache(maxsize=16)
def _find_leading_tokens(tokenizer: "PreTrainedTokenizerBase", size: int) -> tuple[int, ...]:
    bare = _tokenize(tokenizer, "a")
    whole = _tokenize(tokenizer, "a", add_special_tokens=True)
    starts = range(len(whole) - len(bare) + 1)
    found = (whole[:at] for at in starts if whole[at : at + len(bare)] == bare)
    return tuple(next(found, []))


def call_tokenizer(name: str, call: Callable[[], T]) -> T:
    """The result of ``call``, which uses the tokenizer of the decoder of this name.

    Raises:
        UserError: for whatever the tokenizer raises. A damaged ``tokenizer.json`` makes its Rust
            library panic, which Python sees as an exception that is no Exception.
    """
    try:
        return call()
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{name}: no usable tokenizer ({reason[:200]})") from None


def _tokenize(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    *,
    add_special_tokens: bool = False,
    split_special_tokens: bool = False,
) -> list[int]:
    """``tokenizer.encode``, without its warning of long texts: lengths are checked elsewhere."""
    return call_tokenizer(
        tokenizer.name_or_path,
        lambda: tokenizer.encode(
            text,
            add_special_tokens=add_special_tokens,
            split_special_tokens=split_special_tokens,
            verbose=False,
        ),
    )


def _encode_pieces(tokenizer: "PreTrainedTokenizerBase", pieces: Sequence[str]) -> list[int]:
    """Token ids of a text, every second piece of which is a control token to be read as text."""
    ids = _tokenize(tokenizer, pieces[0])
    for number, piece in enumerate(pieces[1:]):
        if not piece:
            continue
        if number % 2:
            ids += _encode_inner(tokenizer, piece, partial(_tokenize, tokenizer))
        else:
            ids += _encode_spelling(tokenizer, piece)
    return ids


def _encode_spelling(tokenizer: "PreTrainedTokenizerBase", spelling: str) -> list[int]:
    """Token ids of what spells a control token, as the text that it is."""

    def encode_as_text(text: str) -> list[int]:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return _tokenize(tokenizer, text, split_special_tokens=True)
        return call_tokenizer(tokenizer.name_or_path, lambda: _run_model(backend, text))

    ids = _encode_inner(tokenizer, spelling, encode_as_text)
    if tokenizer.convert_tokens_to_ids(spelling) in ids:
        # some models have the token among their ordinary words: no word reaches past a border
        ids = [token for letter in spelling for token in encode_as_text(letter)]
    return ids


def _run_model(backend: Any, text: str) -> list[int]:
    """Token ids by the steps of a fast tokenizer, without its added tokens."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = [text]
    if backend.pre_tokenizer is not None:
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for word in words for token in backend.model.tokenize(word)]


def _encode_inner(
    tokenizer: "PreTrainedTokenizerBase", piece: str, encode_text: Callable[[str], list[int]]
) -> list[int]:
    """Token ids of a piece from the middle of a text.

    Some tokenizers add a space at the beginning of a text, so the piece is put after a line break.
    """
    newline, ids = _tokenize(tokenizer, "\n"), encode_text("\n" + piece)
    return ids[len(newline) :] if ids[: len(newline)] == newline else encode_text(piece)


def _check_embeddings(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], vocab_size: int
) -> list[int]:
    """The ids, if the decoder has an embedding for each."""
    if ids and max(ids) >= vocab_size:
        word = tokenizer.convert_ids_to_tokens(max(ids))
        raise UserError(
            f"the tokenizer's token {word!r} has id {max(ids)}, "
            f"but the decoder has only {vocab_size} embeddings"
        )
    return ids


def _replace_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs, which no tokenizer takes, as U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return replace_surrogates(text)
    return text
