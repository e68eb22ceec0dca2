"""Where examples come from. A new source is a function with a name in ``SOURCES``."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.utils.config import Strict, checked
from adapt_jax.utils.errors import UserError, nearest

SPLITS = ("train", "development", "test")


@dataclass(frozen=True)
class Row:
    """One record as its source holds it, and where it stands (``FILE, line 3`` and 3)."""

    where: str
    number: int
    values: Mapping[str, Any]


Rows = Mapping[str, Sequence[Row | Example]]  # by split; a single undivided lot is "all"
Sizes = Mapping[str, int | float | None]


def find(path: str, folder: Path) -> Path:
    """``path`` beside the file that names it, otherwise from the working directory.

    Raises:
        UserError: if there is no such file, with the nearest name in its folder.
    """
    for candidate in (folder / Path(path).expanduser(), Path(path).expanduser()):
        if candidate.is_file():
            return candidate
    if (folder / path).is_dir():
        raise UserError(f"{folder / path}: is a folder; expected a file")
    parent = (folder / path).parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    raise UserError(f"{folder / path}: there is no such file{nearest(Path(path).name, names)}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_jsonl(path: Path) -> list[Row]:
    """One JSON object on each line; blank lines are skipped.

    Raises:
        UserError: naming the line that is not a JSON object.
    """
    rows = []
    for line, content in enumerate(_text(path).split("\n"), start=1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {line}: not valid JSON ({error.msg})") from None
        rows.append(_row(values, f"{path}, line {line}", line))
    return rows


def read_json(path: Path) -> list[Row]:
    """A list of objects, alone or the only list in an object, or a mapping of id to object (the
    id is then the field ``id``).

    Raises:
        UserError: for anything else.
    """
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == 1:
            content = lists[0]
        elif all(isinstance(value, dict) for value in content.values()):
            content = [{"id": key, **value} for key, value in content.items()]
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of objects, or a mapping of id to object")
    return [_row(values, f"{path}, record {n}", n) for n, values in enumerate(content, start=1)]


def read_csv(path: Path) -> list[Row]:
    """Comma-separated values under a header line.

    Raises:
        UserError: naming the line whose number of columns differs from the header's.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    header = next(reader, [])
    rows = []
    try:
        for cells in reader:
            line = reader.line_num
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(cells)} columns, but the header has {len(header)}"
                )
            if cells:
                values = dict(zip(header, cells, strict=True))
                rows.append(_row(values, f"{path}, line {line}", line))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
    return rows


def _row(values: Any, where: str, number: int) -> Row:
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object, found {type(values).__name__}")
    return Row(where, number, values)


class Files(Strict):
    """One file to divide (``path``), or a file for each split. ``test_ids`` names a JSON list or
    mapping of the ids that make the test split of ``path``; the rest is for training."""

    path: str | None = None
    train: str | None = None
    development: str | None = None
    test: str | None = None
    test_ids: str | None = None


def local(
    read: Callable[[Path], list[Row]],
    options: Mapping[str, Any],
    *,
    seed: int,
    folder: Path,
    sizes: Sizes,
) -> Rows:
    """Local files of the form that ``read`` reads.

    Raises:
        UserError: for a missing or malformed file, or both or neither way of naming files.
    """
    files = checked(Files, options, "source")
    named = {split: name for split in SPLITS if (name := getattr(files, split)) is not None}
    if bool(files.path) == bool(named):
        raise UserError(f"source: expected either 'path' or some of {', '.join(SPLITS)}")
    if files.path is None:
        if files.test_ids:
            raise UserError("source: 'test_ids' divides 'path'; the test split has its own file")
        return {split: read(find(name, folder)) for split, name in named.items()}
    rows = read(find(files.path, folder))
    if files.test_ids is None:
        return {"all": rows}
    path = find(files.test_ids, folder)
    try:
        ids = {str(id) for id in json.loads(_text(path))}
    except (json.JSONDecodeError, TypeError):
        raise UserError(f"{path}: expected a JSON list or mapping of ids") from None
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    for row in rows:
        parts["test" if str(row.values.get("id")) in ids else "train"].append(row)
    return parts


class Dataset(Strict):
    """A TensorFlow Datasets name and its splits in TFDS's own notation (``train[:80%]``)."""

    dataset: str
    data_dir: str | None = None
    split: str | None = None
    train: str | None = None
    development: str | None = None
    test: str | None = None


def tfds(options: Mapping[str, Any], *, seed: int, folder: Path, sizes: Sizes) -> Rows:
    """A prepared TensorFlow Datasets builder, read through ``as_data_source``: no TensorFlow.

    Class labels become their names.

    Raises:
        UserError: for an unknown dataset or split, one that is not prepared, or one that is
            prepared as TFRecord, which has no random access.
    """
    import tensorflow_datasets

    chosen = checked(Dataset, options, "source")
    named = {"all": chosen.split, **{split: getattr(chosen, split) for split in SPLITS}}
    named = {split: name for split, name in named.items() if name is not None}
    if not named or ("all" in named and len(named) > 1):
        raise UserError(f"source: expected either 'split' or some of {', '.join(SPLITS)}")
    data_dir = None if chosen.data_dir is None else Path(chosen.data_dir).expanduser()
    if data_dir is not None and (folder / data_dir).is_dir():
        data_dir = folder / data_dir
    where = f"tfds {chosen.dataset}"
    try:
        builder = tensorflow_datasets.builder(chosen.dataset, data_dir=data_dir)
    except tensorflow_datasets.core.DatasetNotFoundError:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)
        hint = nearest(chosen.dataset, known)
        raise UserError(f"source.dataset: no TensorFlow dataset {chosen.dataset!r}{hint}") from None
    prepare = f"tfds build {chosen.dataset} --file_format=array_record"
    if not builder.is_prepared():
        raise UserError(f"{where}: not prepared in {builder.data_dir}; prepare it by `{prepare}`")
    labels = {
        name: feature.int2str
        for name, feature in builder.info.features.items()
        if isinstance(feature, tensorflow_datasets.features.ClassLabel)
    }
    rows = {}
    for split, name in named.items():
        try:
            records = builder.as_data_source(split=name)
        except NotImplementedError:
            raise UserError(f"{where}: prepared as TFRecord; prepare it by `{prepare}`") from None
        except (ValueError, KeyError) as error:
            has = ", ".join(builder.info.splits)
            raise UserError(f"{where}: no split {name!r} ({error}); it has: {has}") from None
        rows[split] = [
            Row(
                f"{where}, split {name}, record {n}",
                n,
                {key: labels[key](v) if key in labels else v for key, v in record.items()},
            )
            for n, record in enumerate(records, start=1)
        ]
    return rows


def arithmetic(options: Mapping[str, Any], *, seed: int, folder: Path, sizes: Sizes) -> Rows:
    """The embedded generator of word problems: as many as ``sizes`` asks for, drawn by ``seed``.

    Raises:
        UserError: for options (it has none) or a size that is not a whole number.
    """
    from adapt_jax.tasks.arithmetic import splits

    checked(Strict, options, "source")
    counts = {}
    for split in SPLITS:
        size = sizes.get(split) or 0
        if not isinstance(size, int):
            raise UserError(f"splits.{split}: the arithmetic source needs a number, not {size}")
        counts[split] = size
    drawn = splits(seed, **counts)
    return {split: drawn[split] for split in SPLITS if counts[split]}


SOURCES: dict[str, Callable[..., Rows]] = {
    "arithmetic": arithmetic,
    "jsonl": partial(local, read_jsonl),
    "json": partial(local, read_json),
    "csv": partial(local, read_csv),
    "tfds": tfds,
}
