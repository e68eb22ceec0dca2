"""Answers in JSON: ``json:FIELD``, and ``json_schema``, which validates them by a JSON Schema."""

import json
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import regex

from adapt_jax.tasks.answers.json_schema import SCHEMA_KIND, is_text_field, make_validator
from adapt_jax.tasks.answers.made_parsers import Reader, fold_spaces
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_surrogates

__all__ = ["make_json_readers", "make_schema_readers", "name_schema_parser"]

MAX_STARTS = 200  # brackets of a text at which JSON may begin
MAX_LENGTH = 100_000  # characters of a text that is searched for JSON
# possessive, so that an open fence before many spaces takes no quadratic time
_CODE_FENCE = regex.compile(r"```\w*+\s*+(.*?)```", regex.DOTALL)
# what is cut off in the middle of a value
_OPEN_END = re.compile(
    r'\s*(?:-|t|tr|tru|f|fa|fal|fals|n|nu|nul|"(?:[^"\\]|\\.)*\\?)?\Z', re.DOTALL
)


def make_json_readers(path: str) -> tuple[Reader, Reader]:
    """What reads answers and gold answers out of a field of a JSON object.

    Args:
        path: names of fields and numbers of items joined by dots, such as ``result.value``.

    Raises:
        UserError: the path is empty.
    """
    keys = _split_path(path, f"answer_parser 'json:{path:.80}'")

    def read(text: str, choices: Sequence[str] = ()) -> str | None:
        found = (_find_text(value, keys) for value in _iterate_json(text, json.JSONDecoder()))
        return next((answer for answer in found if answer is not None), None)

    def read_gold(text: str, choices: Sequence[str] = ()) -> str | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return fold_spaces(text)  # a bare text
        return _find_text(value, keys) if isinstance(value, dict | list) else _to_text(value)

    return read, read_gold


def name_schema_parser(schema: Any, field: str | None, where: str) -> str:
    """The name of the parser of a schema: it holds all that the parser depends on.

    Args:
        field: the path of the answer in what the schema describes; None takes the whole.

    Raises:
        UserError: it is no JSON Schema, the path is empty, or jsonschema is not installed.
    """
    argument = {"schema": schema} | ({} if field is None else {"field": field})
    try:
        name = f"{SCHEMA_KIND}:{_dump(argument)}"
    except (TypeError, ValueError, RecursionError) as mistake:  # YAML has dates and keys of numbers
        raise UserError(f"{where}: schema: no JSON ({mistake!s:.100}); use quotes") from None
    try:
        make_schema_readers(name.partition(":")[2])
    except UserError as mistake:
        raise UserError(f"{where}: {mistake}") from None
    return name


def make_schema_readers(argument: str) -> tuple[Reader, Reader]:
    """What reads answers and gold answers that a JSON Schema describes.

    The answer is the JSON value in the text, within code fences or bare, that is valid; where two
    valid values differ, or the last one is cut off, there is none. Its form is JSON with sorted
    keys in which equal numbers are written alike; a text that is no JSON stands without quotes.

    Args:
        argument: JSON with ``schema`` and perhaps ``field``.

    Raises:
        UserError: it is no JSON Schema, or jsonschema is not installed.
    """
    try:
        content = json.loads(argument)
        schema, path = content["schema"], content.get("field")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{SCHEMA_KIND}: expected answer_parser: {{name: {SCHEMA_KIND}, schema: ...}}"
        ) from None
    is_valid = make_validator(schema)
    keys = [] if path is None else _split_path(path, f"{SCHEMA_KIND}: field")
    is_text = is_text_field(schema, keys)

    def read(text: str, choices: Sequence[str] = ()) -> str | None:
        found = set[str]()
        for value in _iterate_values(text):
            if value is _CUT_OFF:
                return None
            if is_valid(value) and (answer := _find_canonical(value, keys)) is not None:
                found.add(answer)
        return found.pop() if len(found) == 1 else None

    def read_gold(text: str, choices: Sequence[str] = ()) -> str | None:
        try:
            value = _STRICT.decode(text)
        except (ValueError, RecursionError):
            is_bare = bool(keys) and not text.lstrip().startswith(("{", "["))
            return _canonicalize(text.strip()) if is_bare and text.strip() else None
        if is_valid(value):
            return _find_canonical(value, keys)
        if not keys or isinstance(value, dict):
            return None
        return _canonicalize(text.strip() if is_text else value)  # of the field alone

    return read, read_gold


# ---- JSON in a text


class _CutOff:
    """Stands for a value that begins in a text, and does not end in it."""


_CUT_OFF = _CutOff()


def _iterate_json(text: str, decoder: json.JSONDecoder) -> Iterator[Any]:
    """Objects and lists in a text, also within code fences; the outer ones only.

    Where one does not end, nothing in it counts: the last thing is then ``_CUT_OFF``.
    """
    text = text[:MAX_LENGTH]
    at, tried = 0, 0
    while (start := regex.search(r"[{\[]", text, pos=at)) and tried < MAX_STARTS:
        tried += 1
        try:
            value, at = decoder.raw_decode(text, start.start())
        except json.JSONDecodeError as mistake:
            if start.end() < len(text) and _is_open(text, mistake):
                yield _CUT_OFF
                return
            at = max(start.end(), mistake.pos)
            continue
        except (ValueError, RecursionError):
            at = start.end()
            continue
        yield value


def _is_open(text: str, mistake: json.JSONDecodeError) -> bool:
    """Whether JSON is right as far as it goes, and the text ends within it."""
    return _OPEN_END.match(text, mistake.pos) is not None


def _iterate_values(text: str) -> Iterator[Any]:
    """JSON values in a text: all of it, what is in a code fence, or objects and lists."""
    for part in (text, *_CODE_FENCE.findall(text[:MAX_LENGTH])):
        try:
            value = _STRICT.decode(part.strip())
        except (ValueError, RecursionError):
            continue
        yield value
        if part is text:
            return
    yield from _iterate_json(text, _STRICT)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _make_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that occurs twice has two readings."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_make_object, parse_constant=_refuse_constant)


# ---- values by their path


def _split_path(path: Any, where: str) -> list[str]:
    keys = path.split(".") if isinstance(path, str) else [""]
    if not all(keys):
        raise UserError(f"{where}: expected the name of a field")
    return keys


_MISSING = object()


def _find(value: Any, keys: Sequence[str]) -> Any:
    """The value at a path; ``_MISSING`` where there is none."""
    for key in keys:
        if isinstance(value, list) and re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return _MISSING
    return value


def _find_text(value: Any, keys: Sequence[str]) -> str | None:
    """The value at a path as text; None where there is none."""
    return _to_text(_find(value, keys))


def _to_text(value: Any) -> str | None:
    """Texts with white space folded; numbers that are equal have one text."""
    match value:
        case str():
            return fold_spaces(value)
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


# ---- one form of equal values


def _find_canonical(value: Any, keys: Sequence[str]) -> str | None:
    """The canonical form of the value at a path; None where there is none."""
    found = _find(value, keys)
    return None if found is _MISSING else _canonicalize(found)


def _canonicalize(value: Any) -> str | None:
    """JSON with sorted keys; 1.0 is 1. A text that is no JSON itself stands without quotes."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            if value.strip():
                return replace_surrogates(value)
    try:
        return replace_surrogates(_dump(_normalize_numbers(value)))
    except (ValueError, RecursionError):
        return None  # a number beyond what floats hold


def _dump(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _normalize_numbers(value: Any) -> Any:
    """Whole numbers as integers, as JSON Schema sees them (1.0 is 1)."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_normalize_numbers(one) for one in value]
        case dict():
            return {key: _normalize_numbers(one) for key, one in value.items()}
    return value
