"""Readers of Arrow tables: Parquet, Arrow IPC and Feather files, and saved Hugging Face datasets.

Rows are read in batches, so that files may be larger than the memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapt_jax.tasks.sources.parquet_footer import read_parquet_sizes
from adapt_jax.tasks.sources.rows import FileOptions, Row, check_row, find_duplicate
from adapt_jax.utils.bucket import localize
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import check_is_no_pointer

__all__ = ["import_datasets", "iter_arrow_rows", "iter_dataset_rows", "iter_parquet_rows"]

BATCH_ROWS = 1_000
# a few kilobytes of a file can unpack into billions of values
MAX_PARQUET_VALUES = 2_000_000_000
MAX_VALUES_PER_ROW = 10_000  # on average


def iter_parquet_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """The rows of a Parquet file, through pyarrow.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    pyarrow = _import_pyarrow(path, "Parquet")
    with _refuse_damage(pyarrow, path, "Parquet"):
        check_is_no_pointer(path)
        _check_parquet_size(path)
        with pyarrow.parquet.ParquetFile(localize(path), memory_map=True) as opened:
            yield from _iter_batches(path, opened.iter_batches(BATCH_ROWS))


def iter_arrow_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """The rows of an Arrow IPC file or stream, or of a Feather file of version 2.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    pyarrow = _import_pyarrow(path, "Arrow")
    with _refuse_damage(pyarrow, path, "Arrow"):
        check_is_no_pointer(path)
        with pyarrow.memory_map(str(localize(path))) as mapped:
            if mapped.read(6) == b"ARROW1":
                mapped.seek(0)
                opened = pyarrow.ipc.open_file(mapped)
                batches = (opened.get_batch(n) for n in range(opened.num_record_batches))
            else:
                mapped.seek(0)
                batches = iter(pyarrow.ipc.open_stream(mapped))
            yield from _iter_batches(path, _cut_batches(batches))


def iter_dataset_rows(dataset: Any, where: str) -> Iterator[Row]:
    """The rows of one split of a Hugging Face dataset; class labels become their names."""
    names: dict[str, Callable[[int], str]] = {
        key: feature.int2str
        for key, feature in (dataset.features or {}).items()
        if type(feature).__name__ == "ClassLabel"
    }
    for number, record in enumerate(dataset, start=1):
        for key, name in names.items():
            value = record[key]  # -1 is a missing label
            record[key] = None if value is None or value < 0 else name(value)
        yield check_row(record, f"{where}, record {number}", number)


def import_datasets(where: str) -> Any:
    """The library of Hugging Face datasets.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{where}: reading Hugging Face datasets needs the package datasets: "
            "pip install 'adapt-jax[data]'"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _import_pyarrow(path: Path, kind: str) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: reading {kind} needs pyarrow: pip install 'adapt-jax[data]'"
        ) from None
    return pyarrow


@contextmanager
def _refuse_damage(pyarrow: Any, path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as {kind} ({reason})") from None


def _cut_batches(batches: Iterator[Any]) -> Iterator[Any]:
    """Divides batches into ones of at most BATCH_ROWS rows."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _iter_batches(path: Path, batches: Iterator[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        if (twice := find_duplicate(batch.schema.names)) is not None:
            raise UserError(f"{path}: the column {twice!r:.80} occurs twice")
        for values in batch.to_pylist():
            number += 1
            yield check_row(values, f"{path}, record {number}", number)


def _check_parquet_size(path: Path) -> None:
    """Raises UserError for a file that unpacks into too many values."""
    total = 0
    for rows, values in read_parquet_sizes(path):
        if values > MAX_VALUES_PER_ROW * max(rows, 1):
            raise UserError(f"{path}: more than {MAX_VALUES_PER_ROW:,} values in a row")
        total += values
    if total > MAX_PARQUET_VALUES:
        raise UserError(f"{path}: {total:,} values; at most {MAX_PARQUET_VALUES:,} can be read")
