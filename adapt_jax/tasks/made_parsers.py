"""Readers that a task makes by an argument: ``regex:PATTERN`` and ``json:FIELD``."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import regex

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.patterns import BoundedPatterns

__all__ = ["make_json_readers", "make_regex_readers"]

Reader = Callable[[str, Sequence[str]], str | None]
MATCH_SECONDS = 1.0  # for a pattern in one text; a text that takes longer has no answer
MAX_JSON_STARTS = 200  # brackets of a text at which JSON may begin
MAX_JSON_LENGTH = 100_000  # characters of a text that is searched for JSON


def make_regex_readers(pattern: str) -> tuple[Reader, Reader]:
    """What reads answers and gold answers by a regular expression.

    The answer is the first match's only group, or all of it where it has none. A gold answer may
    also be written bare, as one line.

    Raises:
        UserError: it is no regular expression, or has several groups.
    """
    where = f"answer_parser 'regex:{pattern:.80}'"
    compiled = BoundedPatterns(where).compile(pattern)
    if compiled.groups > 1:
        raise UserError(f"{where}: expected one group or none, found {compiled.groups}")

    def read(text: str, choices: Sequence[str] = ()) -> str | None:
        return _match(compiled, "search", text)

    def read_gold(text: str, choices: Sequence[str] = ()) -> str | None:
        if (answer := _match(compiled, "fullmatch", text.strip())) is not None:
            return answer
        bare = text.strip()
        return None if "\n" in bare else _fold(bare)

    return read, read_gold


def _match(compiled: Any, action: str, text: str) -> str | None:
    try:
        found = getattr(compiled, action)(text, timeout=MATCH_SECONDS)
    except (TimeoutError, RecursionError, MemoryError):
        return None
    if found is None:
        return None
    return _fold(found[compiled.groups] or "")


def _fold(text: str) -> str | None:
    return " ".join(text.split()) or None


def make_json_readers(path: str) -> tuple[Reader, Reader]:
    """What reads answers and gold answers out of a field of a JSON object.

    Args:
        path: names of fields and numbers of items joined by dots, such as ``result.value``.

    Raises:
        UserError: the path is empty.
    """
    keys = path.split(".")
    if not all(keys):
        raise UserError(f"answer_parser 'json:{path:.80}': expected the name of a field")

    def read(text: str, choices: Sequence[str] = ()) -> str | None:
        found = (_find(value, keys) for value in _iterate_json(text))
        return next((answer for answer in found if answer is not None), None)

    def read_gold(text: str, choices: Sequence[str] = ()) -> str | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return _fold(text)  # a bare text
        return _find(value, keys) if isinstance(value, dict | list) else _to_text(value)

    return read, read_gold


def _iterate_json(text: str) -> Iterator[Any]:
    """Objects and lists in a text, also within code fences; the outer ones only."""
    text = text[:MAX_JSON_LENGTH]
    decoder, at, tried = json.JSONDecoder(), 0, 0
    while (start := regex.search(r"[{\[]", text, pos=at)) and tried < MAX_JSON_STARTS:
        tried += 1
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            at = start.end()
            continue
        yield value


def _find(value: Any, keys: Sequence[str]) -> str | None:
    """The value at a path as text; None where there is none."""
    for key in keys:
        if isinstance(value, list) and re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return None
    return _to_text(value)


def _to_text(value: Any) -> str | None:
    """Texts with white space folded; numbers that are equal have one text."""
    match value:
        case str():
            return _fold(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < 10**300 else None
        case float():
            try:
                exact = Fraction(str(value))
            except (ValueError, OverflowError):
                return None  # NaN and infinity
            return str(exact.numerator) if exact.denominator == 1 else str(value)
        case list():
            texts = [_to_text(one) for one in value]
            return None if None in texts or not texts else json.dumps(texts, ensure_ascii=False)
    return None
