"""Where examples come from: local files, TensorFlow Datasets, the embedded generator.

A new source is a function of a ``SourceRequest``:

    from adapt_jax.tasks.sources import SOURCES, Row

    @SOURCES.register("squares")
    def squares(request):
        rows = [Row(f"square {n}", n, {"question": f"{n}^2?", "answer": n * n}) for n in range(9)]
        return {"all": rows}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.readers import (
    FileOptions,
    Row,
    read_csv_rows,
    read_json_rows,
    read_jsonl_rows,
    read_parquet_rows,
)
from adapt_jax.utils.config import Strict, find_path, validate
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.registry import Registry
from adapt_jax.utils.text_files import read_json

__all__ = ["SOURCES", "SPLITS", "Row", "Rows", "Sizes", "SourceRequest"]

SPLITS = ("train", "development", "test")

Rows = Mapping[str, Sequence[Row | Example]]  # by split; undivided rows are "all"
Sizes = Mapping[str, int | float | None]


@dataclass(frozen=True)
class SourceRequest:
    """The request that a source answers.

    Attributes:
        options: the keys of ``source`` in the task file except for its name.
        folder: where relative paths are looked for first.
        seed: of the task.
        sizes: how many examples of each split the task wants; None where it does not say.
        id_field: the field that holds ids.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path(".")
    seed: int = 0
    sizes: Sizes = field(default_factory=lambda: dict.fromkeys(SPLITS))
    id_field: str = "id"


SOURCES: Registry[Callable[[SourceRequest], Rows]] = Registry("source")


class Files(FileOptions):
    """One file to divide (``path``), or a file for each split. ``test_ids`` names a JSON list or
    mapping of the ids that make the test split of ``path``; the rest is for training. ``records``
    belongs to JSON, ``delimiter``, ``columns`` and ``quote`` to CSV (see FileOptions)."""

    path: str | None = None
    train: str | None = None
    development: str | None = None
    test: str | None = None
    test_ids: str | None = None


def _read_files(
    read: Callable[[Path, FileOptions], list[Row]], only: Sequence[str], request: SourceRequest
) -> Rows:
    """Local files of the form that ``read`` reads.

    Args:
        only: the options of FileOptions that this form has.

    Raises:
        UserError: a missing or malformed file, both or neither way of naming files, an option of
            another form.
    """
    files = validate(Files, request.options, "source")
    for name in FileOptions.model_fields:
        if name in request.options and name not in only:
            raise UserError(f"source: {name!r} does not belong to this source")
    named = {split: name for split in SPLITS if (name := getattr(files, split)) is not None}
    if bool(files.path) == bool(named):
        raise UserError(f"source: expected either 'path' or some of {', '.join(SPLITS)}")
    if files.path is None:
        if files.test_ids:
            raise UserError("source: 'test_ids' divides 'path'; the test split has its own file")
        return {
            split: read(find_path(name, request.folder), files) for split, name in named.items()
        }
    rows = read(find_path(files.path, request.folder), files)
    if files.test_ids is None:
        return {"all": rows}
    return _divide_by_ids(rows, find_path(files.test_ids, request.folder), request.id_field)


def _divide_by_ids(rows: Sequence[Row], path: Path, id_field: str) -> Rows:
    """The rows whose ids a file lists as the test split, the others for training.

    Raises:
        UserError: the file is no list of ids, or an id matches no row.
    """
    listed = read_json(path)
    if not isinstance(listed, list | dict) or not all(isinstance(id, str | int) for id in listed):
        raise UserError(f"{path}: expected a JSON list or mapping of ids")
    ids = {str(id) for id in listed}
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    for row in rows:
        parts["test" if str(row.values.get(id_field)) in ids else "train"].append(row)
    missing = ids - {str(row.values.get(id_field)) for row in parts["test"]}
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(ids)} ids match no row's field {id_field!r}, "
            f"such as {min(missing)!r:.60}; fields.id names the field of ids"
        )
    return parts


for _name, _read, _only in (
    ("jsonl", read_jsonl_rows, ()),
    ("json", read_json_rows, ("records",)),
    ("csv", read_csv_rows, ("delimiter", "columns", "quote")),
    ("parquet", read_parquet_rows, ()),
):
    SOURCES.register(_name)(partial(_read_files, _read, _only))


class Dataset(Strict):
    """A TensorFlow Datasets name and its splits in TFDS's own notation (``train[:80%]``)."""

    dataset: str
    data_dir: str | None = None
    split: str | None = None
    train: str | None = None
    development: str | None = None
    test: str | None = None


@SOURCES.register("tfds")
def tfds(request: SourceRequest) -> Rows:
    """A prepared TensorFlow Datasets builder, read through ``as_data_source``: no TensorFlow.

    Class labels become their names.

    Raises:
        UserError: an unknown dataset or split, one that is not prepared, or one that is prepared
            as TFRecord, which has no random access.
    """
    import tensorflow_datasets

    chosen = validate(Dataset, request.options, "source")
    named = {"all": chosen.split, **{split: getattr(chosen, split) for split in SPLITS}}
    named = {split: name for split, name in named.items() if name is not None}
    if not named or ("all" in named and len(named) > 1):
        raise UserError(f"source: expected either 'split' or some of {', '.join(SPLITS)}")
    data_dir = None if chosen.data_dir is None else find_path(chosen.data_dir, request.folder)
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
        except NotImplementedError:  # how tfds reports a dataset that it prepared as TFRecord
            raise UserError(f"{where}: prepared as TFRecord; prepare it by `{prepare}`") from None
        except (ValueError, KeyError) as error:
            has = ", ".join(builder.info.splits)
            raise UserError(f"{where}: no split {name!r} ({error}); it has: {has}") from None
        rows[split] = [
            Row(
                f"{where}, split {name}, record {n}",
                n,
                {key: _name_class(labels, key, v) for key, v in record.items()},
            )
            for n, record in enumerate(records, start=1)
        ]
    return rows


def _name_class(labels: Mapping[str, Callable[[int], str]], key: str, value: Any) -> Any:
    """The name of a class label; -1 is how TFDS writes a missing one."""
    if key not in labels:
        return value
    return labels[key](value) if value >= 0 else None


@SOURCES.register("arithmetic")
def arithmetic(request: SourceRequest) -> Rows:
    """The embedded generator of word problems: as many as the sizes ask for, drawn by the seed.

    Raises:
        UserError: options (it has none), or a size that is not a whole number.
    """
    from adapt_jax.tasks.arithmetic import draw_splits

    validate(Strict, request.options, "source")
    counts = {}
    for split in SPLITS:
        size = request.sizes.get(split) or 0
        if not isinstance(size, int):
            raise UserError(f"splits.{split}: the arithmetic source needs a number, not {size}")
        counts[split] = size
    drawn = draw_splits(request.seed, **counts)
    return {split: drawn[split] for split in SPLITS if counts[split]}
