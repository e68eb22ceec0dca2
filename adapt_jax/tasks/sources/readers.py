"""The forms of data files: which reader reads which, by name or by what a file's name ends with.

Values stay as their file writes them; what they mean is decided in ``tasks/fields/``. Every refusal
names the file and the line or record. Files may be compressed with gzip or Zstandard, and all
forms but JSON are read row by row, so that they may be larger than the memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from adapt_jax.tasks.sources.readers_arrow import iter_arrow_rows, iter_parquet_rows
from adapt_jax.tasks.sources.readers_csv import iter_csv_rows, iter_tsv_rows
from adapt_jax.tasks.sources.readers_json import iter_json_rows, iter_jsonl_rows
from adapt_jax.tasks.sources.rows import FileOptions, Row
from adapt_jax.utils.compressed_files import strip_compressed_suffix
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import read_lines

__all__ = ["FORMS", "find_form", "iter_rows", "read_rows"]


def iter_text_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """The lines of a plain text as the field ``text``; blank lines are skipped."""
    for number, line in enumerate(read_lines(path), start=1):
        if text := line.strip():
            yield Row(f"{path}, line {number}", number, {"text": text})


# by name: the reader, and the options of FileOptions that it has
FORMS: dict[str, tuple[Callable[[Path, FileOptions], Iterator[Row]], tuple[str, ...]]] = {
    "jsonl": (iter_jsonl_rows, ("records",)),
    "json": (iter_json_rows, ("records",)),
    "csv": (iter_csv_rows, ("delimiter", "columns", "quote")),
    "tsv": (iter_tsv_rows, ("delimiter", "columns", "quote")),
    "parquet": (iter_parquet_rows, ()),
    "arrow": (iter_arrow_rows, ()),
    "text": (iter_text_rows, ()),
}
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
}


def find_form(path: Path) -> str:
    """The name of a file's form, by what its name ends with (before ``.gz`` or ``.zst``).

    Raises:
        UserError: another ending.
    """
    form = ENDINGS.get(strip_compressed_suffix(path).suffix.lower())
    if form is None:
        if not path.is_dir():
            raise UserError(f"{path}: expected a file that ends with {', '.join(ENDINGS)}")
        inner = ", ".join(sorted(one.name for one in path.iterdir() if one.is_dir()))
        hint = f"; is it one of its folders: {display_text(inner, 150)}?" if inner else ""
        raise UserError(f"{path}: is a folder without files that end with .jsonl, .csv, ...{hint}")
    return form


def iter_rows(
    path: Path, options: FileOptions | None = None, form: str | None = None
) -> Iterator[Row]:
    """The rows of a file, one at a time.

    Args:
        form: a name in FORMS; by default what the name of the file ends with.

    Raises:
        UserError: another ending, or as the reader of the form does.
    """
    read, _ = FORMS[form or find_form(path)]
    return read(path, options or FileOptions())


def read_rows(path: Path, options: FileOptions | None = None) -> list[Row]:
    """All rows of a file; raises as ``iter_rows``."""
    return list(iter_rows(path, options))
