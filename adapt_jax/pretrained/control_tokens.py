"""Control tokens: what ends a turn or a text, and must not be spelled by a user.

A tokenizer reads ``</s>`` in any text as its end-of-text token. In user text such a spelling is put
between two marks, which templates copy; the encoder then reads what is between them as text.
The method is that of ``apply_chat_template(sanitize_control_tokens=True)`` in transformers 5.24,
and the token ids are the same.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "find_control_tokens",
    "mark_control_tokens",
    "remove_marks",
    "split_at_marks",
]

# Noncharacters of Unicode: they are meant for use inside of one program, and occur in no text.
MARK_START, MARK_END = "\ufdd0", "\ufdd1"
_MARKS = re.compile(f"[{MARK_START}{MARK_END}]")
_MARKED = re.compile(f"{MARK_START}([^{MARK_START}{MARK_END}]+){MARK_END}")


def find_control_tokens(
    tokenizer: "PreTrainedTokenizerBase", template: str = "", ids: Iterable[int] = ()
) -> dict[str, int]:
    """The tokenizer's control tokens, spelling -> id.

    They are its special tokens, those of its added tokens that the chat template writes or that
    ``tokenizer.chat_control_tokens`` lists, and the added tokens of these ids.
    """
    # the number of tokens changes when one is added to the tokenizer
    return _find_control_tokens(tokenizer, len(tokenizer), template, tuple(ids))


@lru_cache(maxsize=16)
def _find_control_tokens(
    tokenizer: "PreTrainedTokenizerBase", size: int, template: str, ids: tuple[int, ...]
) -> dict[str, int]:
    listed = getattr(tokenizer, "chat_control_tokens", None)

    def is_control(number: int, text: str) -> bool:
        if number in ids or text in (listed or ()):
            return True
        # Gemma has runs of line breaks among its added tokens: they are ordinary text
        return listed is None and text in template and not text.isspace()

    added = tokenizer.added_tokens_decoder.items()
    return {
        token.content: number
        for number, token in added
        if token.content and (token.special or is_control(number, token.content))
    }


@lru_cache(maxsize=16)
def _compile_spellings(spellings: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def mark_control_tokens(text: str, control_tokens: Iterable[str]) -> str:
    """User text with marks around whatever spells one of the control tokens."""
    spellings = _compile_spellings(tuple(control_tokens))
    return spellings.sub(lambda found: f"{MARK_START}{found[0]}{MARK_END}", remove_marks(text))


def remove_marks(text: str) -> str:
    """The text as a user reads it."""
    return _MARKS.sub("", text)


def split_at_marks(text: str) -> list[str]:
    """[text, marked token, text, marked token, ..., text]: every second piece stood between marks.

    String methods of a template can separate the marks around a token; a mark alone still parts
    the text, so that what is before and after it cannot become a control token together.
    """
    pieces = []
    for number, piece in enumerate(_MARKED.split(text)):
        if number % 2:
            pieces.append(piece)
            continue
        first, *rest = _MARKS.split(piece)
        pieces.append(first)
        for one in rest:
            pieces += ["", one]
    return pieces
