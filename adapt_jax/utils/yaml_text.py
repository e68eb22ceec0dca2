"""YAML texts by the core schema of YAML 1.2, read strictly and within bounds."""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_surrogates
from adapt_jax.utils.written_numbers import (
    MAX_DEPTH,
    MAX_DIGITS,
    Refusal,
    WrittenInt,
    parse_float,
    parse_int,
    quote_short,
)

__all__ = ["parse_yaml"]

MAX_YAML_CHARACTERS = 2**22
MAX_YAML_NODES = 200_000  # counted after aliases are followed


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text holds, by the core schema of YAML 1.2.

    Aliases are followed, merge keys (``<<``) and tags outside the schema are not known.

    Args:
        where: what messages call the text, such as its file.

    Raises:
        UserError: naming the line of what is not YAML, of a key that occurs twice, of more than
            MAX_DEPTH levels, of a tag or a number that is not read, or where the aliases multiply
            to more than MAX_YAML_NODES values.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise UserError(
            f"{where}: {len(text):,} characters of YAML; at most {MAX_YAML_CHARACTERS:,}"
        )
    text = replace_surrogates(text.removeprefix("\ufeff"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _YamlBuilder(yaml.parse(text, Loader=loader), where).build_document()
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        at = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{at}: not valid YAML ({problem.problem})") from None
    except yaml.reader.ReaderError as problem:
        unread = next((n for n, one in enumerate(text) if not _is_yaml_character(one)), 0)
        at = f", line {text.count(chr(10), 0, unread) + 1}"
        raise UserError(f"{where}{at}: not valid YAML ({problem.reason})") from None
    except yaml.YAMLError as problem:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(problem).split())})") from None


def _is_yaml_character(character: str) -> bool:
    """Whether YAML 1.2, section 5.1, allows the character."""
    return character in "\t\n\r\x85" or (character >= " " and not "\x7f" <= character < "\xa0")


class _YamlBuilder:
    """Builds values from the events of a YAML parser.

    PyYAML's own constructor follows YAML 1.1, keeps the last of two equal keys and recurses
    without bound.
    """

    def __init__(self, events: Iterator[Any], where: str) -> None:
        self.events, self.where = events, where
        self.anchors: dict[str, tuple[Any, int]] = {}  # value and number of nodes in it
        self.nodes = 0
        self.depth = 0

    def build_document(self) -> Any:
        value = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse("a second document (---); expected one", event)
                value = self.build(next(self.events))
        return value

    def build(self, event: Any) -> Any:
        before = self.nodes
        self.nodes += 1
        match event:
            case yaml.AliasEvent():
                if event.anchor not in self.anchors:
                    self.refuse(f"the alias *{event.anchor} has no anchor before it", event)
                value, size = self.anchors[event.anchor]
                self.nodes += size
            case yaml.ScalarEvent():
                value = self.build_scalar(event)
            case yaml.SequenceStartEvent():
                value = self.build_sequence(event)
            case _:
                value = self.build_mapping(event)
        if self.nodes > MAX_YAML_NODES:
            self.refuse(f"more than {MAX_YAML_NODES:,} values, aliases followed", event)
        if not isinstance(event, yaml.AliasEvent) and event.anchor:
            self.anchors[event.anchor] = value, self.nodes - before
        return value

    def build_sequence(self, start: Any) -> list[Any]:
        self.enter(start, "tag:yaml.org,2002:seq")
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.build(event))
        self.depth -= 1
        return items

    def build_mapping(self, start: Any) -> dict[Any, Any]:
        self.enter(start, "tag:yaml.org,2002:map")
        content: dict[Any, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.build(event)
            if isinstance(key, list | dict):
                self.refuse("a key that is a list or a mapping", event)
            if key in content:
                self.refuse(f"the key {quote_short(str(key))} occurs twice", event)
            content[key] = self.build(next(self.events))
        self.depth -= 1
        return content

    def enter(self, start: Any, tag: str) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} levels of lists and mappings", start)
        if start.tag not in (None, "!", tag):
            self.refuse(f"the tag {quote_short(start.tag)} is not known", start)

    def build_scalar(self, event: Any) -> Any:
        text, tag = replace_surrogates(event.value), event.tag
        if tag in (None, "!"):
            tag = "str" if event.style or tag == "!" else _find_tag(text)
        else:
            tag = tag.removeprefix("tag:yaml.org,2002:")
            is_decimal = re.fullmatch("[-+]?[0-9]+", text) is not None
            if tag not in ("str", _find_tag(text)) and not (tag == "float" and is_decimal):
                self.refuse(
                    f"{quote_short(text)} with the tag {quote_short(event.tag)} is not known", event
                )
        try:
            return _read_scalar(tag, text)
        except Refusal as problem:
            self.refuse(f"{problem}; quote it where it is text", event)

    def refuse(self, reason: str, event: Any) -> NoReturn:
        raise UserError(f"{self.where}, line {event.start_mark.line + 1}: {reason}")


# YAML 1.2, section 10.3.2
_YAML_TAGS = {
    "null": re.compile(r"null|Null|NULL|~|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}


def _find_tag(text: str) -> str:
    return next((tag for tag, pattern in _YAML_TAGS.items() if pattern.fullmatch(text)), "str")


def _read_scalar(tag: str, text: str) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "float":
        if text[-1].isalpha():  # .inf, .nan
            raise Refusal(f"{text} is no finite number", text)
        return parse_float(text)
    if tag == "int" and text[:2] in ("0o", "0x"):
        if len(text) > MAX_DIGITS:
            raise Refusal(f"a number of {len(text):,} characters", text)
        return WrittenInt(int(text, 0), text)
    return parse_int(text) if tag == "int" else text
