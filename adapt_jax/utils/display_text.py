"""Foreign text made safe to show: names, labels, questions, answers and errors of other people.

Such text may hold escape sequences that drive a terminal, letters that reverse the reading order,
markup of rich or formulas of matplotlib. ``display_text`` is called wherever foreign text meets a
terminal, a table or a picture.
"""

import unicodedata

__all__ = ["display_text", "quote_text"]

MAX_LINE = 300  # letters of an error or a note
_UNSAFE = {
    "Cc",  # control characters, ESC among them
    "Cf",  # invisible letters: reading order, joiners, tags
    "Cs",  # halves of a surrogate pair
    "Co",  # private letters, which a terminal's font may draw as anything
    "Cn",  # not assigned
    "Zl",  # line and paragraph separators
    "Zp",
}
_JOINERS = "\u200c\u200d"  # part of correct spelling in Persian and Indic scripts, and of emoji


def display_text(text: str, limit: int | None = MAX_LINE) -> str:
    """The text as one line that is safe to show, at most ``limit`` letters (None: all of them).

    Line breaks and tabs become spaces. Letters that are invisible, or that a terminal obeys, are
    shown as their escapes, such as ``\\x1b``. A longer text ends in "…".
    """
    # a huge text is not walked through letter by letter
    walked = text if limit is None else text[: 4 * limit]
    shown = "".join(_escape(letter) for letter in " ".join(walked.split()))
    if limit is not None and (len(shown) > limit or len(walked) < len(text)):
        shown = shown[: limit - 1] + "…"
    return shown


def quote_text(text: str, limit: int = 60) -> str:
    """The text in quotation marks, safe to show."""
    return f'"{display_text(text, limit)}"'


def _escape(letter: str) -> str:
    if letter.isascii():
        safe = " " <= letter <= "~"
    else:
        safe = letter in _JOINERS or unicodedata.category(letter) not in _UNSAFE
    if safe:
        return letter
    return letter.encode("unicode_escape").decode("ascii")
