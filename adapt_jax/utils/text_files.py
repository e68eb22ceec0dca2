"""The readers of text files: UTF-8 text, JSON, JSON lines and YAML.

Every file that a user or a download brings is read here, so that a damaged or hostile one ends in
one line that names the file and the line, and never in a traceback, a hang or a full memory.
Nothing is dropped or changed in silence: a key that occurs twice is refused, and a number keeps
the text that it is written as (``str(value)`` gives ``1.50`` and ``0010`` back).

JSON is RFC 8259. YAML is the core schema of YAML 1.2, section 10.3: ``yes``, ``3:30`` and
``2024-02-30`` are text, ``1e-3`` is a number.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.files import replace_surrogates

__all__ = [
    "MAX_DEPTH",
    "WrittenFloat",
    "WrittenInt",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_json_lines",
    "read_text",
    "read_yaml",
]

MAX_TEXT_BYTES = 2**30
MAX_YAML_CHARACTERS = 2**22
MAX_YAML_NODES = 200_000  # counted after aliases are followed
MAX_DEPTH = 100  # of lists and mappings within each other
MAX_DIGITS = 1_000  # of one number
NOTHING: Mapping[str, Any] = {}

_LFS_POINTER = "version https://git-lfs.github.com/spec/"
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
# A string (with the colon that makes it a key), a bracket, or any other scalar. The quantifiers
# are possessive and an open string matches too, so that scanning takes linear time.
_JSON_TOKEN = re.compile(
    r'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))(?P<colon>\s*+:)?'
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<scalar>[^\s,:\[\]{}\"]++)",
    re.DOTALL,
)


class WrittenInt(int):
    """An integer whose text in its file differs from Python's; ``str`` gives the text."""

    text: str

    def __new__(cls, value: int, text: str = "") -> "WrittenInt":
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class WrittenFloat(float):
    """A float whose text in its file differs from Python's; ``str`` gives the text."""

    text: str

    def __new__(cls, value: float, text: str = "") -> "WrittenFloat":
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class _Refusal(Exception):
    """What is wrong with a scalar or an object, before its line is known."""

    def __init__(self, reason: str, literal: str = "") -> None:
        super().__init__(reason)
        self.literal = literal


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises:
        UserError: there is no such file, it is no regular file, too large, not UTF-8, binary, or
            a Git LFS pointer in the place of the file.
    """
    path = Path(path)
    try:
        if not path.is_file():
            _refuse_absent(path)
        if (size := path.stat().st_size) > MAX_TEXT_BYTES:
            raise UserError(f"{path}: {size:,} bytes; at most {MAX_TEXT_BYTES:,} can be read")
        content = path.read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        reason = getattr(problem, "strerror", None) or problem
        raise UserError(f"{_cut(str(path))}: cannot be read ({reason})") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        start = problem.start + (len(content) - len(problem.object))  # the mark is cut off first
        line = content.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{content[start]:02x}); save it as UTF-8"
        ) from None
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UserError(f"{path}, line {line}: a NUL character; expected a text file")
    if text.startswith(_LFS_POINTER):
        raise UserError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
    return text


def read_json(path: str | Path, *, constants: Mapping[str, Any] = NOTHING) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: as ``read_text`` and ``parse_json`` do.
    """
    return parse_json(read_text(path), str(path), constants=constants)


def read_json_lines(
    path: str | Path, *, constants: Mapping[str, Any] = NOTHING
) -> Iterator[tuple[int, Any]]:
    """The line numbers and values of a file with one JSON value per line; blank lines are skipped.

    Raises:
        UserError: as ``read_text`` and ``parse_json`` do.
    """
    for line, content in enumerate(read_text(path).split("\n"), start=1):
        if content.strip():
            yield line, parse_json(content, str(path), line=line, constants=constants)


def parse_json(
    text: str, where: str, *, line: int = 1, constants: Mapping[str, Any] = NOTHING
) -> Any:
    """The value that a JSON text holds.

    Half of a surrogate pair becomes U+FFFD, as UTF-8 cannot hold it.

    Args:
        where: what messages call the text, such as its file.
        line: the number of its first line.
        constants: values for names that JSON does not know, such as ``{"NaN": None}``; others
            (``Infinity``) are refused.

    Raises:
        UserError: naming the line of what is not JSON, of a key that occurs twice, of more than
            MAX_DEPTH levels, or of a number out of range.
    """

    def refuse(reason: str, position: int) -> NoReturn:
        at = line + text.count("\n", 0, position)
        raise UserError(f"{where}, line {at}: {reason}") from None

    def parse_constant(name: str) -> Any:
        if name not in constants:
            raise _Refusal(f"not valid JSON ({name} is no JSON number)", name)
        return constants[name]

    too_deep = f"more than {MAX_DEPTH} levels of lists and objects"
    try:
        value = json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=_unique_keys,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=parse_constant,
        )
    except RecursionError:
        refuse(too_deep, _find_json_depth(text))
    except json.JSONDecodeError as problem:
        refuse(f"not valid JSON ({problem.msg})", problem.pos)
    except _Refusal as problem:
        refuse(str(problem), _find_in_json(text, problem.literal))
    # counting brackets is quick, and enough for nearly every line of a JSONL file
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(value):
        refuse(too_deep, _find_json_depth(text))
    return _replace_surrogates_in(value) if _SURROGATE_ESCAPE.search(text) else value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict.

    Raises:
        _Refusal: a key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refusal(f"the key {_cut(key)} occurs twice", key)
            seen.add(key)
    return content


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refusal(f"a number of {len(text):,} characters; at most {MAX_DIGITS:,}", text)
    value = int(text)
    return value if text == str(value) else WrittenInt(value, text)  # -0


def _parse_float(text: str) -> float:
    value = float(text)
    if len(text) > MAX_DIGITS or not math.isfinite(value):
        raise _Refusal(f"the number {_cut(text)} is out of range", text)
    return value if text == str(value) else WrittenFloat(value, text)


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
    keys: list[set[str]] = [set()]
    for token in _JSON_TOKEN.finditer(text):
        if token["scalar"] == literal:
            return token.start()
        if token["open"]:
            keys.append(set())
        elif token["close"] and len(keys) > 1:
            keys.pop()
        elif token["colon"]:
            key = json.loads(token["string"], strict=False)
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


def read_yaml(path: str | Path) -> Any:
    """The value in a YAML file; None where it is empty.

    Raises:
        UserError: as ``read_text`` and ``parse_yaml`` do.
    """
    return parse_yaml(read_text(path), str(path))


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
                self.refuse(f"the key {_cut(str(key))} occurs twice", event)
            content[key] = self.build(next(self.events))
        self.depth -= 1
        return content

    def enter(self, start: Any, tag: str) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} levels of lists and mappings", start)
        if start.tag not in (None, "!", tag):
            self.refuse(f"the tag {_cut(start.tag)} is not known", start)

    def build_scalar(self, event: Any) -> Any:
        text, tag = replace_surrogates(event.value), event.tag
        if tag in (None, "!"):
            tag = "str" if event.style or tag == "!" else _yaml_tag(text)
        else:
            tag = tag.removeprefix("tag:yaml.org,2002:")
            readable = tag in ("str", _yaml_tag(text)) or (tag, _yaml_tag(text)) == ("float", "int")
            if not readable:
                self.refuse(f"{_cut(text)} with the tag {_cut(event.tag)} is not known", event)
        try:
            return _yaml_value(tag, text)
        except _Refusal as problem:
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


def _yaml_tag(text: str) -> str:
    return next((tag for tag, pattern in _YAML_TAGS.items() if pattern.fullmatch(text)), "str")


def _yaml_value(tag: str, text: str) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "float":
        if text[-1].isalpha():
            raise _Refusal(f"{text} is no finite number", text)
        return _parse_float(text)
    if tag == "int" and text[:2] in ("0o", "0x"):
        if len(text) > MAX_DIGITS:
            raise _Refusal(f"a number of {len(text):,} characters", text)
        return WrittenInt(int(text, 0), text)
    return _parse_int(text) if tag == "int" else text


def _refuse_absent(path: Path) -> NoReturn:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file")
    if path.exists():
        raise UserError(f"{path}: is no regular file")
    siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings)
    raise UserError(f"{path}: no such file{hint}")


def _cut(text: str) -> str:
    """The text in quotes, cut to what fits into a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
