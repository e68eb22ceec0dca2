"""Text to token ids and back, with BOS exactly once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapt_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def front_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What this tokenizer itself puts before a text: BOS, for most; nothing, for some."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    dressed = tokenizer.encode("a", add_special_tokens=True)
    starts = range(len(dressed) - len(bare) + 1)
    return next((dressed[:at] for at in starts if dressed[at : at + len(bare)] == bare), [])


def encode(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, bos: bool = True, vocab_size: int
) -> list[int]:
    """Token ids of a text.

    With ``bos`` the text begins as the tokenizer would begin it: with one BOS where it uses one,
    also if the text already spells it (a chat template does). EOS is never added.

    Raises:
        UserError: the tokenizer knows a token for which the decoder has no embedding.
    """
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)  # we check lengths
    if bos:
        front = front_tokens(tokenizer)
        ids = ids if ids[: len(front)] == front else front + ids
    if ids and max(ids) >= vocab_size:
        word = tokenizer.convert_ids_to_tokens(max(ids))
        raise UserError(
            f"the tokenizer's token {word!r} has id {max(ids)}, "
            f"but the decoder has only {vocab_size} embeddings"
        )
    return ids


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of token ids, without special tokens and without any tidying of spaces."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
