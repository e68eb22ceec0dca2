"""Numbers of JSON and YAML files, which keep the text that they are written as."""

import math
from typing import Any

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "Refusal",
    "WrittenFloat",
    "WrittenInt",
    "parse_float",
    "parse_int",
    "quote_short",
]

MAX_DEPTH = 100  # of lists and mappings within each other
MAX_DIGITS = 1_000  # of one number


class _Written:
    """A number that remembers the text of its file; ``str`` gives it."""

    text: str

    def __new__(cls, value: Any, text: str = "") -> Any:
        number = super().__new__(cls, value)  # type: ignore[call-arg]
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class WrittenInt(_Written, int):
    """An integer whose text in its file differs from Python's."""


class WrittenFloat(_Written, float):
    """A float whose text in its file differs from Python's."""


class Refusal(Exception):
    """A mistake in a scalar or an object, before its line is known."""

    def __init__(self, reason: str, literal: str = "") -> None:
        super().__init__(reason)
        self.literal = literal


def parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Refusal(f"a number of {len(text):,} characters; at most {MAX_DIGITS:,}", text)
    value = int(text)
    return value if text == str(value) else WrittenInt(value, text)  # -0


def parse_float(text: str) -> float:
    value = float(text)
    if len(text) > MAX_DIGITS or not math.isfinite(value):
        raise Refusal(f"the number {quote_short(text)} is out of range", text)
    return value if text == str(value) else WrittenFloat(value, text)


def quote_short(text: str) -> str:
    """The text in quotes, cut to what fits into a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
