"""Reader of CSV and TSV: values in columns under a header line."""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from adapt_jax.tasks.sources.rows import FileOptions, Row, check_row, find_duplicate
from adapt_jax.utils.compressed_files import strip_compressed_suffix
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import MAX_LINE_LENGTH, read_lines

__all__ = ["find_delimiter", "iter_csv_rows", "iter_tsv_rows", "read_csv_records"]

DELIMITERS = ("\t", ";", "|", ",")  # the first of those that divide equally well
SNIFFED_RECORDS = 20
# the first line that Excel writes and reads: sep=;
_SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n])"?[\r\n]*', re.IGNORECASE)


def iter_tsv_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """As ``iter_csv_rows``, with a tab between the cells."""
    delimiter = options.delimiter or _read_separator_line(path) or "\t"
    return iter_csv_rows(path, options.model_copy(update={"delimiter": delimiter}))


def iter_csv_rows(path: Path, options: FileOptions) -> Iterator[Row]:
    """Values in columns under a header line, strictly by RFC 4180 except for the delimiter.

    The delimiter is the option's, that of a first line ``sep=;`` as Excel writes it, a tab for
    ``.tsv``, or the one of comma, tab, semicolon and bar that divides the first records into the
    same number of columns.

    Raises:
        UserError: naming the line: a quote that is not closed, text after a closing quote, a
            column name that occurs twice, a record with another number of columns.
    """
    delimiter = options.delimiter or find_delimiter(path, options.quote)
    signs = {delimiter, options.quote}
    if len(delimiter) != 1 or len(options.quote) > 1 or signs & {"\n", "\r"} or len(signs) < 2:
        raise UserError(f"{path}: delimiter and quote: expected one character each")
    records = read_csv_records(path, delimiter, options.quote)
    header, line = list(options.columns or ()), 0
    if not options.columns:
        line, first = next(records, (1, []))
        header = [name.strip() for name in first]
    if (twice := find_duplicate(filter(None, header))) is not None:
        raise UserError(f"{path}, line {line or 1}: the column {twice!r:.80} occurs twice")
    for line, cells in records:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} columns, but the header has {len(header)}"
                f" (the delimiter is {delimiter!r})"
            )
        values = dict(zip(header, cells, strict=True))
        values.pop("", None)  # a column without a name, such as an index
        yield check_row(values, f"{path}, line {line}", line)


def read_csv_records(path: Path, delimiter: str, quote: str) -> Iterator[tuple[int, list[str]]]:
    """The numbers of their first lines and the cells of all records that are not blank.

    A first line ``sep=;`` is no record.

    Raises:
        UserError: as ``iter_csv_rows``.
    """
    csv.field_size_limit(MAX_LINE_LENGTH)  # the module's own limit of 131,072 refuses real texts
    quoting: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    lines = read_lines(path, newline="")
    first = next(lines, "")
    skipped = int(_SEPARATOR_LINE.fullmatch(first) is not None)
    reader = csv.reader(
        lines if skipped else chain([first], lines),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=delimiter != "\t",
        **quoting,
    )
    line = 1 + skipped
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        message = str(error)
        if "unexpected end" in message or "field limit" in message:
            raise UserError(f"{path}, line {line}: a quote is opened and never closed") from None
        hint = (
            f"; a {quote} within a quoted cell is written twice"
            if "expected after" in message
            else ""
        )
        raise UserError(f"{path}, line {line}: not valid CSV ({message}{hint})") from None


def find_delimiter(path: Path, quote: str = '"') -> str:
    """The delimiter that divides the header into most columns; best where all records agree.

    A first line ``sep=;`` names it.
    """
    if separator := _read_separator_line(path):
        return separator
    if strip_compressed_suffix(path).suffix.lower() in (".tsv", ".tab"):
        return "\t"
    best, found = (False, 1), ","
    for delimiter in DELIMITERS:
        records = read_csv_records(path, delimiter, quote)
        try:
            cells = [cells for _, cells in islice(records, SNIFFED_RECORDS)]
        except UserError:
            continue
        if delimiter == "," and best[0] and all(map(_has_decimal_commas, cells)):
            continue
        widths = [len(one) for one in cells]
        if widths and widths[0] > 1:
            rating = (len(set(widths)) == 1, widths[0])
            if rating > best:
                best, found = rating, delimiter
    return found


def _has_decimal_commas(cells: Sequence[str]) -> bool:
    """Whether each comma that divides a record stands between digits: ``3,5;4,5``."""
    return all(one[-1:].isdecimal() and other[:1].isdecimal() for one, other in pairwise(cells))


def _read_separator_line(path: Path) -> str | None:
    """The delimiter that a first line ``sep=;`` names; None where there is no such line."""
    found = _SEPARATOR_LINE.fullmatch(next(read_lines(path, newline=""), ""))
    return found[1] if found else None
