"""Readers of JSON and JSON lines: the records of a file in every common form."""

import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from adapt_jax.tasks.sources.rows import FileOptions, Row, check_row, find_duplicate
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.text_files import parse_json, read_json_lines, read_text

__all__ = ["iter_json_rows", "iter_jsonl_rows", "list_json_splits", "list_record_paths"]

# how splits are called, by us and elsewhere
SPLIT_NAMES = {
    *("train", "training", "validation", "valid", "val", "dev", "development", "eval", "test"),
}
MISSING = {"NaN": None}  # pandas and Python write missing numbers so


def iter_jsonl_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """One JSON object on each line; blank lines are skipped.

    Raises:
        UserError: naming the line that is not a JSON object.
    """
    numbers = count(1)
    for line, values in read_json_lines(path, constants=MISSING, keep_number_text=True):
        where = f"{path}, line {line}"
        if options.records is None:
            if isinstance(values, list) and line == 1:
                raise UserError(f"{where}: expected an object, found list; is it a .json file?")
            yield check_row(values, where, line)
            continue
        for record, inner in enumerate(_list_records(values, options.records, where), start=1):
            yield check_row(inner, f"{where}, record {record}", next(numbers))


def iter_json_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """The records of a JSON file.

    It holds a list of objects, alone, at the path ``records`` or as the only list in an object;
    or a mapping of id to object (the id becomes the field ``id``); or what pandas' ``to_json``
    (orient columns or split), ``Dataset.to_dict`` and the Hugging Face dataset viewer
    (``rows: [{row: ...}]``) write; or a task of natural-instructions. A file with one object on
    each line is read as JSON lines.

    Raises:
        UserError: for anything else.
    """
    text = read_text(path)
    if _is_json_lines(text):
        yield from iter_jsonl_rows(path, options)
        return
    content = parse_json(text, str(path), constants=MISSING, keep_number_text=True)
    records = options.records
    if records is None and _is_natural_instructions(content):
        records = "Instances"
    if records is None and _holds_splits(content):
        names = ", ".join(content)
        raise UserError(f"{path}: holds splits; name one of them by `records`: {names}")
    found = _find_records(content if records is None else _list_records(content, records, path))
    if found is None:
        lists = _list_paths(content)
        names = display_text(", ".join(lists[:10]), 200)
        hint = f"; name one of its lists by `records`: {names}" if lists else ""
        raise UserError(f"{path}: expected a list of objects, or a mapping of id to object{hint}")
    for number, values in enumerate(found, start=1):
        yield check_row(values, f"{path}, record {number}", number)


def list_json_splits(path: Path) -> list[str]:
    """The names of the splits that a JSON file holds, and nothing else; empty for other files.

    Raises:
        UserError: the file is no JSON.
    """
    text = read_text(path)
    first = re.match(r'\s*\{\s*"(\w+)"\s*:', text)
    if first is None or first[1].lower() not in SPLIT_NAMES or _is_json_lines(text):
        return []  # without reading it all
    content = parse_json(text, str(path), constants=MISSING, keep_number_text=True)
    return list(content) if _holds_splits(content) else []


def list_record_paths(path: Path) -> list[str]:
    """Dotted paths of the lists of objects within a JSON file that is an object, longest first.

    Raises:
        UserError: the file is no JSON.
    """
    text = read_text(path)
    if _is_json_lines(text):
        return []
    content = parse_json(text, str(path), constants=MISSING, keep_number_text=True)
    sizes = {}
    for dotted in _list_paths(content):
        value = content
        for key in dotted.split("."):
            value = value[key] if isinstance(value, dict) and key in value else []
        if value and all(isinstance(one, dict) for one in value):
            sizes[dotted] = len(value)
    return sorted(sizes, key=sizes.__getitem__, reverse=True)


def _is_json_lines(text: str) -> bool:
    """Whether the first two lines are an object each."""
    end = text.find("\n")
    next_end = text.find("\n", end + 1)
    first, second = text[: max(end, 0)], text[end + 1 : next_end if next_end > 0 else None]
    return all(one.lstrip()[:1] == "{" and one.rstrip()[-1:] == "}" for one in (first, second))


def _holds_splits(content: Any) -> bool:
    """Whether an object has nothing but splits, which are no columns and no ids of one table."""
    return (
        isinstance(content, dict)
        and len(content) > 1
        and all(key.lower() in SPLIT_NAMES for key in content)
        and all(isinstance(value, list | dict) for value in content.values())
    )


def _is_natural_instructions(content: Any) -> bool:
    """Whether an object is a task of natural-instructions (2204.07705)."""
    return isinstance(content, dict) and {"Definition", "Instances"} <= content.keys()


def _list_records(content: Any, dotted: str, where: Any) -> Any:
    """The value at a dotted path; the records at its end, where it goes through lists."""
    found: list[tuple[dict[str, Any], Any]] = [({}, content)]
    through_lists = False
    for key in dotted.split("."):
        inner = []
        for around, value in found:
            through_lists |= isinstance(value, list)
            for one in value if isinstance(value, list) else [value]:
                if not isinstance(one, dict) or key not in one:
                    has = list(one)[:20] if isinstance(one, dict) else []
                    hint = nearest(key, has) or f"; it has: {display_text(', '.join(has), 200)}"
                    raise UserError(f"{where}: records: there is no {dotted!r}{hint}")
                plain = {k: v for k, v in one.items() if k != key and _is_plain(v)}
                inner.append((around | plain, one[key]))
        found = inner
    if not through_lists and not isinstance(found[0][1], list):
        return found[0][1]
    records = []
    for around, value in found:
        for one in value if isinstance(value, list) else [value]:
            records.append(around | one if isinstance(one, dict) else one)
    return records


def _is_plain(value: Any) -> bool:
    """Whether a value is text, a number, or a list of texts: what an object lends its records."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) for one in value)
    return isinstance(value, str | int | float)


def _find_records(content: Any) -> list[Any] | None:
    """The list of records in any of the forms of ``read_json_rows``."""
    if isinstance(content, dict):
        if _is_table(content):
            return [dict(zip(content["columns"], one, strict=True)) for one in content["data"]]
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == len(content) > 1 and _are_columns(content):
            return [dict(zip(content, values, strict=True)) for values in zip(*lists, strict=True)]
        if len(lists) == 1:
            content = lists[0]
        elif lists or not content:
            return None
        elif all(isinstance(value, dict) for value in content.values()):
            if _is_columns(content):
                return _transpose_columns(content)
            return [{"id": key, **value} for key, value in content.items()]
    if not isinstance(content, list):
        return None
    # the dataset viewer wraps each record
    if content and all(
        isinstance(one, dict) and isinstance(one.get("row"), dict) for one in content
    ):
        return [one["row"] for one in content]
    return content


def _is_table(content: Mapping[str, Any]) -> bool:
    """Whether an object holds names of columns and rows of as many values (orient split)."""
    if not {"columns", "data"} <= content.keys() <= {"columns", "data", "index"}:
        return False
    columns, rows = content["columns"], content["data"]
    return (
        isinstance(columns, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in columns)
        and find_duplicate(columns) is None
        and all(isinstance(one, list) and len(one) == len(columns) for one in rows)
    )


def _are_columns(content: Mapping[str, list[Any]]) -> bool:
    """Whether these are columns of one table, as ``Dataset.to_dict`` writes them.

    Lists of nothing may as well be splits, and "columns" and "data" are a table that is damaged.
    """
    if {"columns", "data"} <= content.keys():
        return False
    lengths = {len(one) for one in content.values()}
    return (
        len(lengths) == 1
        and lengths != {0}
        and not any(isinstance(one[0], dict) for one in content.values())
    )


def _is_columns(content: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an object holds columns of rows, as pandas writes them, and not rows by id."""
    keys = [value.keys() for value in content.values()]
    numbered = bool(keys[0]) and all(key.isdecimal() for key in keys[0])
    return numbered and all(one == keys[0] for one in keys) and not all(map(str.isdecimal, content))


def _transpose_columns(content: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    index = next(iter(content.values()))
    return [{name: column[key] for name, column in content.items()} for key in index]


def _list_paths(content: Any, before: str = "") -> list[str]:
    if not isinstance(content, dict):
        return []
    paths = []
    for key, value in content.items():
        if isinstance(value, list):
            paths.append(before + key)
        paths += _list_paths(value, f"{before}{key}.")
    return paths
