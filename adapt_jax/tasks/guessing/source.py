"""What unknown data is, as the ``source`` of a task file: forms, records, headers, other splits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from adapt_jax.tasks.guessing.columns import find_nested_records
from adapt_jax.tasks.sources import SOURCES, SourceRequest, normalize_source
from adapt_jax.tasks.sources.files import SPLIT_NAMES, find_split
from adapt_jax.tasks.sources.readers import find_form
from adapt_jax.tasks.sources.readers_csv import find_delimiter, read_csv_records
from adapt_jax.tasks.sources.readers_json import list_record_paths
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.compressed_files import strip_compressed_suffix
from adapt_jax.utils.errors import UserError

__all__ = ["GuessedSource", "guess_source"]

MAX_SAMPLED = 20_000  # rows that are looked at
MAX_ROWS = 1_000  # of these, spread evenly
MAX_HEADER_CELL = 60  # characters of a column's name


@dataclass
class GuessedSource:
    """A source that can be read.

    Attributes:
        options: the ``source`` of a task file.
        rows: some of the rows of the split that is trained on, or of the only one.
        num_rows: how many rows that split has; None where there are more than MAX_SAMPLED.
        splits: those that have rows of their own; ["all"] where one file is to be divided.
        reasons: by key, why.
    """

    options: dict[str, Any]
    rows: list[Row]
    num_rows: int | None
    splits: list[str]
    reasons: dict[str, str] = field(default_factory=dict)


def guess_source(data: str) -> GuessedSource:
    """The source that a word of the command line names.

    Args:
        data: a path, a pattern, a folder, ``tfds:NAME``, or ``datasets:NAME``.

    Raises:
        UserError: there is nothing, it cannot be read, or it has no row.
    """
    reasons: dict[str, str] = {}
    kind, colon, name = data.partition(":")
    if colon and kind in ("tfds", "datasets") and not Path(data).exists():
        options: dict[str, Any] = {"name": kind, "dataset": name}
        if kind == "tfds":
            options |= _choose_tfds_splits(name)
    else:
        options = _find_files(Path(data).expanduser(), data, reasons)
    rows, num_rows, splits = _sample_rows(options, reasons)
    if not rows:
        raise UserError(f"{data}: holds no row")
    if nested := find_nested_records(rows):
        base = options.get("records")
        options["records"] = f"{base}.{nested}" if base else _with_list_key(options, nested)
        reasons["records"] = "the questions are within lists of records"
        rows, num_rows, splits = _sample_rows(options, reasons)
    return GuessedSource(options, rows, num_rows, splits, reasons)


def _choose_tfds_splits(name: str) -> dict[str, str]:
    """The splits of a TensorFlow dataset by their names, or the only one to be divided."""
    import tensorflow_datasets

    try:
        names = list(tensorflow_datasets.builder(name).info.splits)
    except Exception:  # the source says what is wrong with the name
        return {"split": "train"}
    found = {split: one for one in reversed(names) if (split := find_split(one)) is not None}
    return found if "test" in found else {"split": names[0] if names else "train"}


def _find_files(path: Path, data: str, reasons: dict[str, str]) -> dict[str, Any]:
    """The file, and the files beside it that are its other splits by their names."""
    if not path.is_file():
        return {"path": data}
    stem = strip_compressed_suffix(path).stem
    split = find_split(stem)
    if split is None:
        return {"path": data}
    found = {split: data}
    for word, other in SPLIT_NAMES.items():
        for own in (one for one in SPLIT_NAMES if SPLIT_NAMES[one] == split):
            beside = path.with_name(re.sub(rf"(?<![a-z]){own}(?![a-z])", word, path.name))
            if beside != path and beside.is_file() and other not in found:
                found[other] = str(beside)
    if len(found) == 1 or "test" not in found:
        return {"path": data}
    reasons["source"] = "files of other splits lie beside it"
    return found


def _sample_rows(
    options: dict[str, Any], reasons: dict[str, str]
) -> tuple[list[Row], int | None, list[str]]:
    """Some rows, how many there are, and the splits; ``options`` gets what reading them needs."""
    _find_csv_columns(options, reasons)
    try:
        found = _iter_splits(options)
    except UserError:
        if "records" in options or not _name_records(options, reasons):
            raise
        found = _iter_splits(options)
    splits = list(found)
    split = "train" if "train" in found else splits[0]
    first = list(islice(iter(found[split]), MAX_SAMPLED + 1))
    num_rows = len(first) if len(first) <= MAX_SAMPLED else None
    rows = [row for row in first[:: max(len(first) // MAX_ROWS, 1)] if isinstance(row, Row)]
    return rows, num_rows, splits


def _iter_splits(options: dict[str, Any]) -> dict[str, Any]:
    """The rows by split; the first row of each is read, so that a file is refused here."""
    source = normalize_source(options, "init", Path("."))
    request = SourceRequest({k: v for k, v in source.items() if k != "name"})
    splits = dict(SOURCES.find(str(source["name"]), "init")(request))
    for split, rows in splits.items():
        iterator = iter(rows)
        first = list(islice(iterator, 1))
        splits[split] = _chain(first, iterator)
    return splits


def _chain(first: list[Any], rest: Any) -> Any:
    yield from first
    yield from rest


def _list_local_files(options: dict[str, Any]) -> list[Path]:
    paths = [Path(str(options[key])) for key in ("path", "train", "test") if key in options]
    return [path for path in paths if path.is_file()]


def _name_records(options: dict[str, Any], reasons: dict[str, str]) -> bool:
    """Names the longest of several lists of a JSON file; whether there is one."""
    for path in _list_local_files(options):
        if find_form(path) == "json" and (found := list_record_paths(path)):
            options["records"] = found[0]
            reasons["records"] = "the file has several lists; this is the longest one of objects"
            return True
    return False


def _with_list_key(options: dict[str, Any], nested: str) -> str:
    """The path from the top of the file: behind the key of its only list, if it is an object."""
    for path in _list_local_files(options):
        if find_form(path) == "json" and (found := list_record_paths(path)):
            return f"{found[0]}.{nested}"
    return nested


def _find_csv_columns(options: dict[str, Any], reasons: dict[str, str]) -> None:
    """Names the columns of a CSV file whose first line is no header."""
    files = [path for path in _list_local_files(options) if find_form(path) in ("csv", "tsv")]
    if not files or "columns" in options:
        return
    records = [
        cells for _, cells in islice(read_csv_records(files[0], find_delimiter(files[0]), '"'), 300)
    ]
    if len(records) < 2 or len(set(map(len, records))) != 1 or not _is_data(records):
        return
    options["columns"] = _name_columns(records)
    reasons["columns"] = "the first line looks like the others, so it is no header"


def _is_data(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first record is like the others: a number, a long text, a value seen again."""
    for column, cell in enumerate(records[0]):
        others = [record[column] for record in records[1:]]
        if re.fullmatch(r"-?\d+([.,]\d+)?", cell.strip()) or len(cell) > MAX_HEADER_CELL:
            return True
        if cell.strip() and cell in others and len(set(others)) < max(len(others) // 2, 2):
            return True
    return False


def _name_columns(records: Sequence[Sequence[str]]) -> list[str]:
    """Names that say what a column holds: a question, choices A, B, ..., an answer."""
    width = len(records[0])
    columns = list(zip(*records, strict=True))
    letters = "ABCDEFGHIJ"[: max(width - 2, 0)]
    if width >= 4 and all(cell.strip() in letters for cell in columns[-1]):
        return ["question", *letters, "answer"]
    lengths = [sum(map(len, column)) / len(column) for column in columns]
    shares = [len(set(column)) / len(column) for column in columns]
    longest = lengths.index(max(lengths))
    several = [n for n in range(width) if n != longest and len(set(columns[n])) > 1]
    label = min(several, key=lambda n: shares[n], default=None)
    names = [f"column{n}" for n in range(1, width + 1)]
    names[longest] = "text"
    if label is not None:
        names[label] = "label" if shares[label] < 0.5 else "answer"
    return names
