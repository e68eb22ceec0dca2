"""One record of a source, and how a file is read where it does not say so itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from adapt_jax.utils.config import Strict
from adapt_jax.utils.errors import UserError

__all__ = ["FileOptions", "Row", "check_row", "find_duplicate"]


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
        records: dotted path of the list of records, such as ``data.train``. A path through lists
            (``data.paragraphs.qas``) gives all records at its end; each has the texts and numbers
            of the objects around it, too.
        delimiter: of a CSV file; found from its first records by default.
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


def check_row(values: Any, where: str, number: int) -> Row:
    """A record as a row.

    Raises:
        UserError: it is no object.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object, found {type(values).__name__}")
    return Row(where, number, values)
