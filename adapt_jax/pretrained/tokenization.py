"""Text to token ids and back, with BOS exactly once; conversations as text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def leading_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
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
        prompt_prefix = leading_tokens(tokenizer)
        ids = ids if ids[: len(prompt_prefix)] == prompt_prefix else prompt_prefix + ids
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


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def has_chat_template(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer says how a conversation is written."""
    try:
        return bool(tokenizer.get_chat_template())
    except ValueError:  # it has none, or several without a default
        return False


def render_chat(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Mapping[str, str]], *, answering: bool
) -> str:
    """A conversation as the tokenizer's own chat template writes it, BOS included where it has one.

    The words of a system's turn go in front of the first question where the template has no place
    for them (it refuses the role, or leaves them out).

    Args:
        turns: {"role", "content"} each; the system's, if any, is the first.
        answering: whether the beginning of the answer's turn follows.

    Raises:
        UserError: there is no chat template, or it refuses these turns.
    """
    from jinja2 import TemplateError

    if not has_chat_template(tokenizer):
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; expected template plain"
        )

    def written(turns: Sequence[Mapping[str, str]]) -> str:
        return str(
            tokenizer.apply_chat_template(
                [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=answering
            )
        )

    system, rest = turns[0], list(turns[1:])
    try:
        if system["role"] != "system":
            return written(turns)
        try:
            text = written(turns)
        except TemplateError:
            text = ""
        if system["content"].strip() not in text or not text:
            joined = f"{system['content']}\n\n{rest[0]['content']}"
            text = written([{**rest[0], "content": joined}, *rest[1:]])
        return text
    except TemplateError as error:
        raise UserError(f"{tokenizer.name_or_path}: its chat template refuses: {error}") from None
