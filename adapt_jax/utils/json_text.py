"""JSON texts (RFC 8259), read strictly and within bounds."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_surrogates
from adapt_jax.utils.written_numbers import (
    MAX_DEPTH,
    Refusal,
    parse_float,
    parse_int,
    quote_short,
)

__all__ = ["NO_CONSTANTS", "parse_json"]

NO_CONSTANTS: Mapping[str, Any] = {}

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
# A string (with the colon that makes it a key), a bracket, or any other scalar. The quantifiers
# are possessive and an open string matches too, so that scanning takes linear time.
_JSON_TOKEN = re.compile(
    r'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))(?P<colon>\s*+:)?'
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<scalar>[^\s,:\[\]{}\"]++)",
    re.DOTALL,
)


def parse_json(
    text: str,
    where: str,
    *,
    line: int = 1,
    constants: Mapping[str, Any] = NO_CONSTANTS,
    keep_number_text: bool = False,
) -> Any:
    """The value that a JSON text holds.

    Half of a surrogate pair becomes U+FFFD, as UTF-8 cannot hold it.

    Args:
        where: what messages call the text, such as its file.
        line: the number of its first line.
        constants: values for names that JSON does not know, such as ``{"NaN": None}``; others
            (``Infinity``) are refused.
        keep_number_text: whether ``str`` of a number gives the text that it is written as.

    Raises:
        UserError: naming the line of what is not JSON, of a key that occurs twice, of more than
            MAX_DEPTH levels, or of a number out of range.
    """

    def refuse(reason: str, position: int) -> NoReturn:
        at = line + text.count("\n", 0, position)
        raise UserError(f"{where}, line {at}: {reason}") from None

    def parse_constant(name: str) -> Any:
        if name not in constants:
            raise Refusal(f"not valid JSON ({name} is no JSON number)", name)
        return constants[name]

    text = text.removeprefix("\ufeff")
    too_deep = f"more than {MAX_DEPTH} levels of lists and objects"
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=parse_int if keep_number_text else lambda text: int(parse_int(text)),
            parse_float=parse_float if keep_number_text else lambda text: float(parse_float(text)),
            parse_constant=parse_constant,
        )
        if _SURROGATE_ESCAPE.search(text):
            value = _replace_surrogates_in(value)
    except RecursionError:
        refuse(too_deep, _find_json_depth(text))
    except json.JSONDecodeError as problem:
        refuse(f"not valid JSON ({problem.msg})", problem.pos)
    except Refusal as problem:
        refuse(str(problem), _find_in_json(text, problem.literal))
    # counting brackets is quick, and enough for nearly every line of a JSONL file
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(value):
        refuse(too_deep, _find_json_depth(text))
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict.

    Raises:
        Refusal: a key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Refusal(f"the key {quote_short(key)} occurs twice", key)
            seen.add(key)
    return content


def _is_too_deep(value: Any) -> bool:
    """Whether lists and objects lie more than MAX_DEPTH levels within each other."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, list | dict)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, list | dict) for one in level)


def _find_json_depth(text: str) -> int:
    """The position of the first bracket that opens more than MAX_DEPTH levels."""
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        if depth > MAX_DEPTH:
            return token.start()
    return 0


def _find_in_json(text: str, literal: str) -> int:
    """The position of a scalar, or of the second of two equal keys of one object."""
    literal = replace_surrogates(literal)
    keys: list[set[str]] = [set()]
    for token in _JSON_TOKEN.finditer(text):
        if token["scalar"] == literal:
            return token.start()
        if token["open"]:
            keys.append(set())
        elif token["close"] and len(keys) > 1:
            keys.pop()
        elif token["colon"]:
            key = replace_surrogates(json.loads(token["string"], strict=False))
            if key == literal and key in keys[-1]:
                return token.start()
            keys[-1].add(key)
    return 0


def _replace_surrogates_in(value: Any) -> Any:
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, list):
        return [_replace_surrogates_in(one) for one in value]
    if isinstance(value, dict):
        pairs = [
            (replace_surrogates(key), _replace_surrogates_in(one)) for key, one in value.items()
        ]
        return _unique_keys(pairs)
    return value
