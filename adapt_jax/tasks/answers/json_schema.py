"""JSON Schema, validated by the package jsonschema.

A schema may come with a received adaptation. So references lead within it, and the time that
expressions and references take is bounded.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote

import regex

from adapt_jax.utils.errors import UserError

__all__ = ["SCHEMA_KIND", "is_text_field", "make_validator"]

SCHEMA_KIND = "json_schema"
MAX_SCHEMA_LENGTH = 100_000  # characters
MAX_REFERENCES = 10_000  # that are followed while one value is validated
PATTERN_SECONDS = 0.2  # for an expression of a schema in one text
MAX_SHOWN = 150  # letters of a mistake in a schema
_MISSING = object()
# The work that these take is not bounded, or depends on what the value holds.
NOT_SUPPORTED = ("patternProperties", "$dynamicRef", "$recursiveRef")


def make_validator(schema: Any) -> Callable[[Any], bool]:
    """Returns a function that says whether a value is valid; the schema is checked first.

    Raises:
        UserError: it is no JSON Schema, or jsonschema is not installed.
    """
    try:
        import jsonschema
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        raise UserError(
            f"the answer parser '{SCHEMA_KIND}' needs jsonschema: pip install 'adapt-jax[json]'"
        ) from None
    if not isinstance(schema, dict | bool):
        raise UserError(f"{SCHEMA_KIND}: schema: expected an object or the path of a file with one")
    if len(json.dumps(schema, ensure_ascii=False)) > MAX_SCHEMA_LENGTH:
        raise UserError(f"{SCHEMA_KIND}: schema: longer than {MAX_SCHEMA_LENGTH:,} characters")
    draft = schema.get("$schema", "") if isinstance(schema, dict) else ""
    if not isinstance(draft, str):
        raise UserError(f"{SCHEMA_KIND}: schema: $schema {draft!r:.40}; expected an address")
    known = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        known.check_schema(schema)
    except jsonschema.SchemaError as mistake:
        at = ".".join(map(str, mistake.absolute_path)) or "schema"
        text = f"{mistake.message:.{MAX_SHOWN}}"
        raise UserError(f"{SCHEMA_KIND}: no JSON Schema: {at}: {text}") from None
    _check_keywords(schema, schema)
    count = [0]

    def follow(validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[Any]:
        count[0] += 1
        if count[0] > MAX_REFERENCES:
            raise RecursionError
        yield from known.VALIDATORS["$ref"](validator, reference, instance, schema)

    bounded = jsonschema.validators.extend(
        known, {"$ref": follow, "pattern": _match_pattern, "uniqueItems": _find_repetition}
    )
    validator = bounded(schema, registry=Registry())

    def is_valid(value: Any) -> bool:
        count[0] = 0
        try:
            return bool(validator.is_valid(value))
        except (RecursionError, TimeoutError):
            return False
        except Unresolvable as mistake:  # of a part of the schema with an $id of its own
            raise UserError(f"{SCHEMA_KIND}: schema: {mistake!s:.{MAX_SHOWN}}") from None

    return is_valid


def _check_keywords(schema: Any, whole: Any) -> None:
    """Raises UserError for an expression that is none, and a reference that leads nowhere."""
    if isinstance(schema, list):
        for one in schema:
            _check_keywords(one, whole)
    if not isinstance(schema, dict):
        return
    for keyword in NOT_SUPPORTED:
        if isinstance(schema.get(keyword), dict if keyword == "patternProperties" else str):
            raise UserError(f"{SCHEMA_KIND}: schema: {keyword} is not supported")
    if isinstance(pattern := schema.get("pattern"), str):
        _compile(pattern)
    if isinstance(reference := schema.get("$ref"), str):
        _check_reference(reference, whole)
    for one in schema.values():
        _check_keywords(one, whole)


def _check_reference(reference: str, whole: Any) -> None:
    """Raises UserError for a reference out of the schema, or to a definition that is not there."""
    if not _has_definition(reference, whole):
        raise UserError(
            f"{SCHEMA_KIND}: schema: no definition {reference!r:.100}; references lead within the "
            "schema, such as '#/$defs/NAME'"
        )


def _has_definition(reference: str, whole: Any) -> bool:
    """Whether a JSON pointer (RFC 6901) after ``#`` leads to a part of the schema."""
    root, *keys = reference.split("/")
    if root != "#":
        return False
    there = whole
    for key in keys:
        name = unquote(key).replace("~1", "/").replace("~0", "~")
        if isinstance(there, list) and regex.fullmatch(r"[0-9]{1,6}", name):
            there = dict(enumerate(there)).get(int(name), _MISSING)
        else:
            there = there.get(name, _MISSING) if isinstance(there, dict) else _MISSING
    return there is not _MISSING


@cache
def _compile(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError):
        raise UserError(
            f"{SCHEMA_KIND}: schema: {pattern!r:.80} is no regular expression"
        ) from None


def _match_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """The keyword ``pattern``, whose expression may match anywhere."""
    if isinstance(instance, str):
        if not _compile(pattern).search(instance, timeout=PATTERN_SECONDS):
            import jsonschema

            yield jsonschema.ValidationError(f"{instance!r:.80} does not match")


def _find_repetition(validator: Any, is_asked: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """The keyword ``uniqueItems``, in a time that grows with the length alone."""
    if is_asked and isinstance(instance, list):
        if len({_make_key(item) for item in instance}) < len(instance):
            import jsonschema

            yield jsonschema.ValidationError("items occur twice")


def _make_key(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 is 1.0 and not true, keys have no order."""
    if isinstance(value, dict):
        return dict, frozenset((name, _make_key(one)) for name, one in value.items())
    if isinstance(value, list):
        return list, tuple(map(_make_key, value))
    return isinstance(value, bool), value


def is_text_field(schema: Any, keys: Sequence[str]) -> bool:
    """Whether a schema says that the field at a path is a text, so that 18 is written "18"."""
    for key in keys:
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        schema = properties.get(key) if isinstance(properties, Mapping) else None
    return isinstance(schema, Mapping) and schema.get("type") == "string"
