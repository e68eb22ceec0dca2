"""Readers of data files: JSON lines, JSON, CSV, TSV and Parquet as rows of typed values.

Values stay as their file writes them; what they mean is decided in ``fields.py``. Every refusal
names the file and the line or record.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from adapt_jax.utils.config import Strict
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.text_files import check_is_no_pointer, read_json, read_json_lines, read_text

__all__ = [
    "FileOptions",
    "Row",
    "find_duplicate",
    "read_csv_rows",
    "read_json_rows",
    "read_jsonl_rows",
    "read_parquet_rows",
    "read_rows",
]

DELIMITERS = (",", "\t", ";", "|")
SNIFFED_RECORDS = 20
MAX_PARQUET_VALUES = 10_000_000  # a few kilobytes of a file can unpack into billions
MISSING = {"NaN": None}  # pandas and Python write missing numbers so


@dataclass(frozen=True)
class Row:
    """One record as its source holds it.

    Attributes:
        where: its place for messages, such as ``FILE, line 3``.
        number: of its line or record, from 1.
        values: by column; None where a value is missing.
    """

    where: str
    number: int
    values: Mapping[str, Any]


class FileOptions(Strict):
    """How a file is read, where it does not say so itself.

    Attributes:
        records: dotted path of the list in a JSON file, such as ``data.train``.
        delimiter: of a CSV file; found from its header by default.
        columns: names of the columns of a CSV file without a header.
        quote: the quoting character of a CSV file; empty for none.
    """

    records: str | None = None
    delimiter: str | None = None
    columns: list[str] | None = None
    quote: str = '"'


def find_duplicate(names: Iterable[str]) -> str | None:
    """The first name that occurs a second time; None where all differ."""
    seen = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def read_rows(path: Path, options: FileOptions | None = None) -> list[Row]:
    """The rows of a file, read by what its name ends with.

    Raises:
        UserError: another ending, or as the reader of the format does.
    """
    readers: dict[str, Callable[..., list[Row]]] = {
        ".jsonl": read_jsonl_rows,
        ".json": read_json_rows,
        ".csv": read_csv_rows,
        ".tsv": read_csv_rows,
        ".parquet": read_parquet_rows,
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a file that ends with {', '.join(readers)}")
    return readers[path.suffix](path, options or FileOptions())


def read_jsonl_rows(path: Path, options: FileOptions | None = None) -> list[Row]:
    """One JSON object on each line; blank lines are skipped.

    Raises:
        UserError: naming the line that is not a JSON object.
    """
    lines = read_json_lines(path, constants=MISSING, keep_number_text=True)
    return [_check_row(values, f"{path}, line {line}", line) for line, values in lines]


def read_json_rows(path: Path, options: FileOptions | None = None) -> list[Row]:
    """The records of a JSON file.

    It holds a list of objects, alone, at the path ``records`` or as the only list in an object;
    or a mapping of id to object (the id becomes the field ``id``); or what pandas' ``to_json``
    (orient columns or split), ``Dataset.to_dict`` and the Hugging Face dataset viewer
    (``rows: [{row: ...}]``) write.

    Raises:
        UserError: for anything else.
    """
    records = (options or FileOptions()).records
    content = read_json(path, constants=MISSING, keep_number_text=True)
    if records is not None:
        content = _find_at_path(content, records, path)
    found = _find_records(content)
    if found is None:
        lists = _list_paths(content)
        names = display_text(", ".join(lists[:10]), 200)
        hint = f"; name one of its lists by `records`: {names}" if lists else ""
        raise UserError(f"{path}: expected a list of objects, or a mapping of id to object{hint}")
    return [_check_row(values, f"{path}, record {n}", n) for n, values in enumerate(found, start=1)]


def _find_at_path(content: Any, dotted: str, path: Path) -> Any:
    for key in dotted.split("."):
        if not isinstance(content, dict) or key not in content:
            has = list(content)[:20] if isinstance(content, dict) else []
            hint = nearest(key, has) or f"; it has: {display_text(', '.join(has), 200)}"
            raise UserError(f"{path}: records: there is no {dotted!r}{hint}")
        content = content[key]
    return content


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


def read_csv_rows(path: Path, options: FileOptions | None = None) -> list[Row]:
    """Values in columns under a header line, strictly by RFC 4180 except for the delimiter.

    The delimiter is the option's, a tab for ``.tsv``, or the one of comma, tab, semicolon and bar
    that divides the first lines into the same number of columns.

    Raises:
        UserError: naming the line: a quote that is not closed, text after a closing quote, a
            column name that occurs twice, a line with another number of columns.
    """
    options = options or FileOptions()
    text = read_text(path)
    delimiter = options.delimiter or _find_delimiter(path, text, options.quote)
    if len(delimiter) != 1 or len(options.quote) > 1 or {delimiter, options.quote} & {"\n", "\r"}:
        raise UserError(f"{path}: delimiter and quote: expected one character each")
    records = _read_csv_records(path, text, delimiter, options.quote)
    header, line = list(options.columns or ()), 0
    if not options.columns:
        line, first = next(records, (1, []))
        header = [name.strip() for name in first]
    if (twice := find_duplicate(filter(None, header))) is not None:
        raise UserError(f"{path}, line {line or 1}: the column {twice!r:.80} occurs twice")
    rows = []
    for line, cells in records:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} columns, but the header has {len(header)}"
                f" (the delimiter is {delimiter!r})"
            )
        values = dict(zip(header, cells, strict=True))
        values.pop("", None)  # a column without a name, such as an index
        rows.append(_check_row(values, f"{path}, line {line}", line))
    return rows


def _read_csv_records(path: Path, text: str, delimiter: str, quote: str) -> Any:
    """The numbers of their first lines and the cells of all records that are not blank."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit of 131,072 refuses real texts
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=delimiter != "\t",
        **quoting,  # type: ignore[arg-type]
    )
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        said = str(error)
        if "unexpected end" in said:
            raise UserError(f"{path}, line {line}: a quote is opened and never closed") from None
        hint = (
            f"; a {quote} within a quoted cell is written twice" if "expected after" in said else ""
        )
        raise UserError(f"{path}, line {line}: not valid CSV ({said}{hint})") from None


def _find_delimiter(path: Path, text: str, quote: str) -> str:
    """The delimiter that divides the header into most columns; best where all lines agree."""
    if path.suffix == ".tsv":
        return "\t"
    best, found = (False, 1), ","
    for delimiter in DELIMITERS:
        records = _read_csv_records(path, text, delimiter, quote)
        try:
            widths = [len(cells) for _, cells in islice(records, SNIFFED_RECORDS)]
        except UserError:
            continue
        if widths and widths[0] > 1:
            rating = (len(set(widths)) == 1, widths[0])
            if rating > best:
                best, found = rating, delimiter
    return found


def read_parquet_rows(path: Path, options: FileOptions | None = None) -> list[Row]:
    """The rows of a Parquet file, through pyarrow.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow: pip install 'adapt-jax[data]'"
        ) from None
    try:
        check_is_no_pointer(path)
        _check_parquet_size(path, pyarrow.parquet.read_metadata(path))
        table = pyarrow.parquet.read_table(path)
        if (twice := find_duplicate(table.column_names)) is not None:
            raise UserError(f"{path}: the column {twice!r:.80} occurs twice")
        records = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as Parquet ({reason})") from None
    return [
        _check_row(values, f"{path}, record {n}", n) for n, values in enumerate(records, start=1)
    ]


def _check_parquet_size(path: Path, metadata: Any) -> None:
    """Raises UserError for a file that unpacks into more than MAX_PARQUET_VALUES."""
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    values = sum(g.column(n).num_values for g in groups for n in range(g.num_columns))
    if values > MAX_PARQUET_VALUES:
        raise UserError(f"{path}: {values:,} values; at most {MAX_PARQUET_VALUES:,} can be read")


def _check_row(values: Any, where: str, number: int) -> Row:
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object, found {type(values).__name__}")
    return Row(where, number, values)
