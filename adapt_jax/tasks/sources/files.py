"""Sources in local files and folders, and Hugging Face datasets by name."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from adapt_jax.tasks.sources.readers import ENDINGS, FORMS, find_form, iter_rows
from adapt_jax.tasks.sources.readers_arrow import import_datasets, iter_dataset_rows
from adapt_jax.tasks.sources.readers_json import list_json_splits
from adapt_jax.tasks.sources.registry import SOURCES, SPLITS, Rows, SourceRequest
from adapt_jax.tasks.sources.rows import FileOptions, Row
from adapt_jax.utils.compressed_files import strip_compressed_suffix
from adapt_jax.utils.config import Strict, find_path, validate
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.text_files import check_is_file, read_json

__all__ = ["find_split", "normalize_source"]

# how splits are called elsewhere
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "development",
    "valid": "development",
    "val": "development",
    "dev": "development",
    "development": "development",
    "test": "test",
}


class Files(FileOptions):
    """Files to divide (``path``), or files for each split.

    Each is a path, a pattern such as ``data/*.jsonl``, or a list of these; ``path`` may be a folder
    with a file for each split. ``test_ids`` names a JSON list or mapping of the ids that make the
    test split of ``path``; the rest is for training. ``records`` belongs to JSON and JSONL,
    ``delimiter``, ``columns`` and ``quote`` to CSV and TSV (see FileOptions).
    """

    path: str | list[str] | None = None
    train: str | list[str] | None = None
    development: str | list[str] | None = None
    test: str | list[str] | None = None
    test_ids: str | None = None


def normalize_source(source: Any, where: str, folder: Path) -> dict[str, Any]:
    """The ``source`` of a task file as a mapping with a name.

    A text is a path, or the name of a source that needs no options; a list is several paths. A
    mapping without a name is one of files, or of a saved dataset.

    Raises:
        UserError: it names nothing that can be read.
    """
    if isinstance(source, str) and source in SOURCES:
        return {"name": source}
    named = dict(source) if isinstance(source, Mapping) else {"path": source}
    if "name" in named:
        return named
    if "dataset" in named:
        raise UserError(f"{where}: source.name: expected tfds or datasets, beside 'dataset'")
    if not named.keys() & {"path", *SPLITS}:
        raise UserError(
            f"{where}: source: expected a path, or a mapping with 'path', some of "
            f"{', '.join(SPLITS)}, or 'name' (one of {', '.join(SOURCES)})"
        )
    path = named.get("path")
    if isinstance(path, str) and _is_saved_dataset(find_path(path, folder)):
        named["dataset"] = named.pop("path")
        return {"name": "datasets", **named}
    return {"name": "files", **named}


def find_split(name: str) -> str | None:
    """The split that a file or a split of a dataset is, by a word of its name; None for others."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _read_files(form: str | None, request: SourceRequest) -> Rows:
    """Local files.

    Args:
        form: a name in FORMS; None finds it from the name of each file.

    Raises:
        UserError: a missing or malformed file, both or neither way of naming files, an option of
            another form, one file for two splits.
    """
    files = validate(Files, request.options, "source")
    named = {split: name for split in SPLITS if (name := getattr(files, split)) is not None}
    if bool(files.path) == bool(named):
        raise UserError(f"source: expected either 'path' or some of {', '.join(SPLITS)}")
    if files.path is not None:
        named = _find_split_files(files.path, request.folder) or {"all": files.path}
    elif files.test_ids:
        raise UserError("source: 'test_ids' divides 'path'; the test split has its own file")
    paths = {split: _expand(name, request.folder) for split, name in named.items()}
    _check_files(paths, files, form)
    if inner := _find_inner_splits(paths, files, form):
        (path,) = paths["all"]
        return {
            split: _chain_rows([path], files.model_copy(update={"records": name}), form)
            for split, name in inner.items()
        }
    rows = {split: _chain_rows(each, files, form) for split, each in paths.items()}
    if files.test_ids is None:
        return rows
    if "all" not in rows:
        raise UserError("source: 'test_ids' divides one file; this folder has one for each split")
    ids_path = find_path(files.test_ids, request.folder)
    return _divide_by_ids(paths["all"], files, form, ids_path, request.id_field)


def _find_inner_splits(
    paths: Mapping[str, list[Path]], files: Files, form: str | None
) -> dict[str, str]:
    """The splits that the one JSON file of a task holds by their names."""
    each = paths.get("all", [])
    if len(each) != 1 or files.records or files.test_ids or (form or find_form(each[0])) != "json":
        return {}
    found: dict[str, str] = {}
    for name in list_json_splits(each[0]):
        if (split := find_split(name)) is not None:
            found.setdefault(split, name)
    return found if "test" in found else {}


def _check_files(paths: Mapping[str, list[Path]], files: Files, form: str | None) -> None:
    """Raises UserError for a missing file, an option of another form, one file in two splits."""
    forms = {form or find_form(path) for each in paths.values() for path in each}
    for name in FileOptions.model_fields.keys() & files.model_fields_set:
        if not any(name in FORMS[one][1] for one in forms):
            raise UserError(f"source: {name!r} does not belong to this source")
    seen: dict[Path, str] = {}
    for split, each in paths.items():
        for path in each:
            check_is_file(path)
            other = seen.setdefault(path.resolve(), split)
            if other != split:
                raise UserError(
                    f"source: {path} is named for both {other} and {split}; expected another file, "
                    "or `path` and `splits` to divide one"
                )


def _expand(names: str | list[str], folder: Path) -> list[Path]:
    """The files that paths and patterns name, those of a pattern in alphabetical order.

    Raises:
        UserError: a pattern that matches nothing, a list of nothing.
    """
    paths: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        path = find_path(name, folder)
        if path.is_dir() and (inside := _list_data_files(path)):
            paths += inside
        elif path.exists() or not glob.has_magic(name):
            paths.append(path)
        else:
            pattern = os.path.expanduser(name)
            found = sorted(folder.glob(pattern)) if not os.path.isabs(pattern) else []
            found = found or [Path(one) for one in sorted(glob.glob(pattern, recursive=True))]
            if not found:
                raise UserError(f"source: {name!r} matches no file")
            paths += found
    if not paths:
        raise UserError("source: expected a path, found an empty list")
    return paths


def _list_data_files(folder: Path) -> list[Path]:
    """The files of a folder that a reader knows by their names, or those of its folder ``data``.

    Raises:
        UserError: the folder was written by TensorFlow Datasets.
    """
    if (folder / "features.json").is_file() and (folder / "dataset_info.json").is_file():
        raise UserError(
            f"{folder}: was prepared by TensorFlow Datasets; expected "
            f"`source: {{name: tfds, dataset: NAME, data_dir: FOLDER, split: train}}`"
        )
    found = [
        one
        for one in folder.iterdir()
        if one.is_file() and strip_compressed_suffix(one).suffix.lower() in ENDINGS
    ]
    inner = folder / "data"  # as repositories of Hugging Face datasets have it
    return sorted(found) if found or not inner.is_dir() else _list_data_files(inner)


def _find_split_files(path: str | list[str], folder: Path) -> dict[str, Any]:
    """The files of a folder by the splits that their names say; empty where it is no folder."""
    if not isinstance(path, str) or not (found := find_path(path, folder)).is_dir():
        return {}
    splits: dict[str, list[str]] = {}
    for one in _list_data_files(found):
        if split := find_split(strip_compressed_suffix(one).stem):
            splits.setdefault(split, []).append(str(one.absolute()))
    return splits if "test" in splits or "train" in splits else {}


def _chain_rows(paths: Sequence[Path], files: FileOptions, form: str | None) -> Iterator[Row]:
    """The rows of several files, numbered on through all of them.

    Raises:
        UserError: they hold no row.
    """
    last = 0
    for path in paths:
        first = last
        for row in iter_rows(path, files, form):
            last = first + row.number
            yield replace(row, number=last) if first else row
    if not last:
        raise UserError(f"{', '.join(map(str, paths[:3]))}: holds no row")


def _divide_by_ids(
    paths: Sequence[Path], files: Files, form: str | None, ids_path: Path, id_field: str
) -> Rows:
    """The rows whose ids a file lists as the test split, the others for training.

    Raises:
        UserError: the file is no list of ids, or an id matches no row.
    """
    listed = read_json(ids_path)
    if not isinstance(listed, list | dict) or not all(isinstance(id, str | int) for id in listed):
        raise UserError(f"{ids_path}: expected a JSON list or mapping of ids")
    ids = {str(id) for id in listed}

    def iter_split(is_test: bool) -> Iterator[Row]:
        found = set()
        for row in _chain_rows(paths, files, form):
            id = str(row.values.get(id_field))
            if (id in ids) == is_test:
                found.add(id) if is_test else None
                yield row
        if is_test and (missing := ids - found):
            raise UserError(
                f"{ids_path}: {len(missing)} of {len(ids)} ids match no row's field {id_field!r}, "
                f"such as {min(missing)!r:.60}; fields.id names the field of ids"
            )

    return {"train": iter_split(False), "test": iter_split(True)}


for _form in (None, *FORMS):
    SOURCES.register(_form or "files")(partial(_read_files, _form))


class HubDataset(Strict):
    """A Hugging Face dataset by its name, or a folder that ``save_to_disk`` wrote.

    ``config`` is the name of its configuration, splits are in the library's own notation
    (``train[:80%]``). Without splits, those of the dataset are taken by their names.
    """

    dataset: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    train: str | None = None
    development: str | None = None
    test: str | None = None


@SOURCES.register("datasets")
def hub_dataset(request: SourceRequest) -> Rows:
    """A Hugging Face dataset: from a saved folder, the local cache, or the hub.

    Raises:
        UserError: no such dataset, configuration or split, or the hub cannot be reached.
    """
    chosen = validate(HubDataset, request.options, "source")
    named = {"all": chosen.split, **{split: getattr(chosen, split) for split in SPLITS}}
    named = {split: name for split, name in named.items() if name is not None}
    if "all" in named and len(named) > 1:
        raise UserError(f"source: expected either 'split' or some of {', '.join(SPLITS)}")
    where = f"dataset {chosen.dataset}"
    folder = find_path(chosen.dataset, request.folder)
    library = import_datasets(where)
    if _is_saved_dataset(folder):
        found = _load_saved(library, folder)
    else:
        found = _load_by_name(library, chosen, where)
    splits = dict(found) if hasattr(found, "keys") else {"all": found}
    if not named:
        named = _choose_splits(list(splits), where)
    rows: dict[str, Iterable[Row]] = {}
    for split, name in named.items():
        base, bracket, part = name.partition("[")
        if base not in splits:
            has = ", ".join(splits)
            raise UserError(f"{where}: no split {base!r}{nearest(base, splits)}; it has: {has}")
        data = splits[base]
        if bracket:
            start, stop = _read_slice(part, data.num_rows, name)
            data = data.select(range(start, stop))
        rows[split] = iter_dataset_rows(data, f"{where}, split {name}")
    return rows


def _is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def _load_saved(library: Any, folder: Path) -> Any:
    try:
        return library.load_from_disk(str(folder))
    except Exception as error:  # whatever a damaged folder makes the library raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: cannot be read as a saved dataset ({reason})") from None


def _load_by_name(library: Any, chosen: HubDataset, where: str) -> Any:
    try:
        return library.load_dataset(chosen.dataset, chosen.config, revision=chosen.revision)
    except Exception as error:  # of the hub, the network, the configuration, the files
        reason = " ".join(str(error).split())[:250]
        raise UserError(
            f"{where}: cannot be loaded, neither from the cache nor from the hub ({reason})"
        ) from None


def _choose_splits(names: Sequence[str], where: str) -> dict[str, str]:
    """The dataset's own splits by ours, where none is named; the only one is divided."""
    if len(names) == 1:
        return {"all": names[0]}
    chosen: dict[str, str] = {}
    for name in names:
        if (split := find_split(name)) is not None and split not in chosen:
            chosen[split] = name
    if "test" not in chosen:
        raise UserError(
            f"{where}: which split is the test split? It has: {', '.join(names)}; name them by "
            "source.train, source.development and source.test"
        )
    return chosen


def _read_slice(part: str, total: int, name: str) -> tuple[int, int]:
    """The rows of ``train[10:20]`` or ``train[:80%]``."""
    start, colon, stop = part.removesuffix("]").partition(":")

    def place(text: str, default: int) -> int:
        if not text:
            return default
        value = int(text.removesuffix("%"))
        value = round(total * value / 100) if text.endswith("%") else value
        return max(0, min(value + total if value < 0 else value, total))

    try:
        if not colon or not part.endswith("]"):
            raise ValueError
        return place(start, 0), max(place(stop, total), place(start, 0))
    except ValueError:
        raise UserError(
            f"source: split {name!r}: expected a name, such as train, train[:80%] or train[100:200]"
        ) from None
