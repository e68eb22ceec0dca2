"""Values of a row: a field, a dotted path within structured values, or several fields joined.

Text and numbers stay as their file writes them. What is missing (null, NaN, empty) is missing.
"""

import ast
import math
import re
import warnings
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import numpy as np

from adapt_jax.tasks.language.letters import LETTERS
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.json_text import parse_json

__all__ = [
    "AbsentField",
    "Missing",
    "RepeatedChoice",
    "is_scores",
    "parse_choices",
    "parse_structured",
    "read_choices",
    "read_required",
    "read_text",
    "read_texts",
    "read_value",
    "to_plain_value",
    "to_text",
]

MAX_CHOICES = 10_000
_MARK = re.compile(r"(?<=[\s,;])\(?([A-Za-z])[ ]?\)[ ]*")  # of a choice within a text: a) or (A)
_LETTER = re.compile(r"\s*\(?([A-Za-z])[).:]\s*")  # before a choice of a list
MAX_PYTHON_TEXT = 100_000  # characters of a list as Python writes it
FIELD = re.compile(r"\{([^{}]+)\}")


class Missing(UserError):
    """A row that cannot be asked: it lacks a question or an answer."""


class AbsentField(Missing):
    """A row that lacks a field; if all rows do, the field's name is wrong."""


class RepeatedChoice(Missing):
    """A row that cannot be asked: a choice occurs twice."""


def read_value(row: Row, name: str) -> Any:
    """The value of a field, or at a dotted path within structured values.

    Raises:
        AbsentField: the row has no such field.
        UserError: the path leads into a value that is no object.
    """
    if name in row.values:
        return row.values[name]
    value: Any = row.values
    for part in name.split("."):
        if isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value):
            value = [one.get(part) for one in value]  # a path through a list of objects
        elif isinstance(value, dict) or value is row.values:
            if part not in value:
                has = display_text(", ".join(map(str, list(value)[:20])), 200)
                raise AbsentField(
                    f"{row.where}: no field {name!r}; it has: {has}{nearest(part, value)}"
                )
            value = value[part]
        else:
            raise UserError(f"{row.where}: no field {name!r}: {part!r} is not within an object")
    return value


def read_text(row: Row, name: str) -> str:
    """A field as text, empty where it is missing; ``{field}`` in the name joins several.

    Raises:
        AbsentField: the row has no such field, or none of those that are joined.
    """
    if "{" in name:
        return _join_texts(row, name)
    return to_text(read_value(row, name), row.where, name)


def _join_texts(row: Row, name: str) -> str:
    """The fields that a name joins; one that this row lacks is empty, as an ``input`` may be."""
    texts: dict[str, str] = {}
    absent: AbsentField | None = None
    for part in FIELD.findall(name):
        try:
            texts[part] = read_text(row, part)
        except AbsentField as one:
            absent = one
    if absent and not texts:
        raise absent
    return FIELD.sub(lambda match: texts.get(match[1], ""), name)


def read_required(row: Row, name: str) -> str:
    if not (text := read_text(row, name).strip()):
        raise Missing(f"{row.where}: field {name!r} is empty")
    return text


def parse_structured(value: Any) -> Any:
    """The list or object that a text is the JSON of, as tables hold them; other values as they are.

    pandas' ``to_csv`` writes lists as Python does, ``['a', 'b']``, which is read, too.
    """
    if not isinstance(value, str) or not re.match(r"\s*+[\[{]", value):
        return value
    try:
        return parse_json(value, "", constants={"NaN": None}, keep_number_text=True)
    except UserError:
        found = _parse_python(value)
        return found if isinstance(found, list | dict) else value


def _parse_python(text: str) -> Any:
    """The value of a Python literal; None where it is none."""
    if len(text) > MAX_PYTHON_TEXT:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that are none
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def _remove_letters(texts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choices without their letters (``A) sky``) where each has one, and as they are written."""
    bare = []
    for letter, text in zip(LETTERS, texts, strict=False):
        mark = _LETTER.match(text)
        if not mark or mark[1].lower() != letter or mark.end() == len(text):
            return texts, ()
        bare.append(text[mark.end() :])
    return (tuple(bare), texts) if 2 <= len(texts) == len(bare) else (texts, ())


def parse_choices(value: Any) -> Any:
    """The list or object that a text is.

    It is JSON, ``a) sky b) sea``, or has line ends, bars or semicolons between the choices.
    """
    value = to_plain_value(parse_structured(value))
    if isinstance(value, str):
        _, *parts = _MARK.split(f" {value.strip()}")
        if len(parts) > 2 and [one.lower() for one in parts[::2]] == list(
            LETTERS[: len(parts) // 2]
        ):
            return [one.strip(" ,;\n\t") for one in parts[1::2]]
        for separator in "\n|;":
            if separator in value.strip():
                return [one.strip() for one in value.strip().split(separator)]
    return value


def read_texts(row: Row, name: str) -> tuple[str, ...]:
    """The texts of a list, which may be written as a text; one text where it is no list."""
    return _to_texts(parse_structured(read_value(row, name)), row, name)


def _to_texts(value: Any, row: Row, name: str) -> tuple[str, ...]:
    value = to_plain_value(value)
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > MAX_CHOICES:
        raise UserError(f"{row.where}: {len(values):,} choices; at most {MAX_CHOICES:,}")
    return tuple(to_text(one, row.where, name) for one in values)


def is_scores(value: Any) -> bool:
    """Whether a value is an object of choices and their scores: ``{yes: 1, no: 0}``."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            isinstance(one, int | float) and not isinstance(one, bool) for one in value.values()
        )
    )


def read_choices(row: Row, name: str | list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices of a question, and the names that its answers may use for them.

    They are a list (also as a text, see ``parse_choices``); an object of texts by their letters, or
    of scores by the texts; or one field for each choice, of which the last ones may be empty.
    """
    if not isinstance(name, str):
        texts = [read_text(row, one) for one in name]
        while texts and not texts[-1]:
            texts.pop()
        return tuple(texts), ()
    value = parse_choices(read_value(row, name))
    if not isinstance(value, dict):
        return _remove_letters(_to_texts(value, row, name))
    if is_scores(value):
        return tuple(key.strip() for key in value), ()
    letters = tuple(key.strip() for key in value)
    return tuple(to_text(value[key], row.where, f"{name}.{key}") for key in value), letters


def to_plain_value(value: Any) -> Any:
    """Arrays, as TFDS gives them, as lists; NaN as None."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype.kind not in "f" else list(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating) and math.isnan(value):
        return None
    return value


def to_text(value: Any, where: str, name: str) -> str:
    """A value as its file writes it; lists of texts by lines.

    Raises:
        UserError: the value is structured, or bytes that are not UTF-8.
    """
    value = to_plain_value(value)
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case bytes():
            try:
                return value.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise UserError(f"{where}: field {name!r}: bytes that are not UTF-8 text") from None
        case Decimal():
            return f"{value:f}"
        case datetime() if value.time() == time():
            return value.date().isoformat()  # as pandas writes whole days
        case dict():
            inner = [f"{name}.{key}" for key in list(value)[:5]]
            raise UserError(
                f"{where}: field {name!r} is an object; name a value in it: "
                + display_text(", ".join(inner), 150)
            )
        case list() | tuple():
            if any(isinstance(to_plain_value(one), list | tuple) for one in value):
                raise UserError(f"{where}: field {name!r} is a list of lists; expected texts")
            return "\n".join(to_text(one, where, name) for one in value)
    return str(value).strip()
