"""Open answers: a line, a span or a whole text."""

import re
from collections.abc import Sequence

from adapt_jax.tasks.answers.text_scores import split_squad_words
from adapt_jax.tasks.language.characters import normalize_widths

__all__ = [
    "read_first_line",
    "read_free_text",
    "read_gold_line",
    "read_gold_span",
    "read_last_line",
    "read_span",
    "read_verbatim",
]

_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{(?:\\text\s?\{)?([^{}]*)\}{1,2}")
_EMPHASIS = (("**", "**"), ("__", "__"), *zip("*_`\"'“‘«", "*_`\"'”’»", strict=True))


def read_first_line(text: str, choices: Sequence[str] = ()) -> str | None:
    """The first line, in lower case, white space folded.

    A closing full stop and the emphasis or quotes around the whole are no part of it.
    """
    if boxes := _BOXED.findall(text):
        text = boxes[-1]
    line = read_free_text(text.strip().partition("\n")[0], choices) or ""
    while (bare := _remove_emphasis(line)) != line:
        line = bare
    return line or None


def _remove_emphasis(line: str) -> str:
    for opening, closing in _EMPHASIS:
        inner = line[len(opening) : -len(closing)]
        wrapped = line.startswith(opening) and line.endswith(closing)
        if wrapped and inner.strip(" .") and opening not in inner and closing not in inner:
            return inner.strip().rstrip(".").rstrip()
    return line


def read_gold_line(text: str, choices: Sequence[str] = ()) -> str | None:
    """A gold answer of one line, in the form of ``read_first_line``."""
    return None if "\n" in text.strip() else read_first_line(text, choices)


def read_last_line(text: str, choices: Sequence[str] = ()) -> str | None:
    """The last line that is not blank, in the form of ``read_first_line``."""
    lines = text.strip().splitlines()
    return read_first_line(lines[-1], choices) if lines else None


def read_span(text: str, choices: Sequence[str] = ()) -> str | None:
    """The first line as SQuAD normalises it: without punctuation and the articles a, an, the."""
    line = read_first_line(text, choices)
    return " ".join(split_squad_words(line or "")) or line


def read_gold_span(text: str, choices: Sequence[str] = ()) -> str | None:
    """A gold answer of one line, in the form of ``read_span``."""
    return None if "\n" in text.strip() else read_span(text, choices)


def read_free_text(text: str, choices: Sequence[str] = ()) -> str | None:
    """The whole text, in lower case, white space folded, without a closing full stop."""
    folded = " ".join(normalize_widths(text).casefold().split())
    return folded.rstrip(".").rstrip() or folded or None


def read_verbatim(text: str, choices: Sequence[str] = ()) -> str | None:
    """The whole text as it is written, without white space around it."""
    return text.strip() or None
