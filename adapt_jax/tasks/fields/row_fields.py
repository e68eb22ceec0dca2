"""The fields of a row that templates see by their names: all but the answer and its reasoning."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adapt_jax.tasks.fields.values import to_plain_value
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.tasks.templates.wordings import ROW
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.written_numbers import WrittenFloat, WrittenInt

__all__ = ["check_row_fields", "list_paths", "read_row_fields"]


def read_row_fields(
    row: Row, names: Collection[str], hidden: Collection[str]
) -> dict[str, Any] | None:
    """The named fields of a row as JSON data; None where no name is given.

    A field that this row lacks is left out: a template may say what is written then.

    Args:
        names: of fields; ``row`` stands for all of them, where no column has this name.
        hidden: fields, or dotted paths within them, that hold the answer; they are left out.
    """
    if not names:
        return None
    wants_all = ROW in names and ROW not in row.values
    found = {
        name: _to_json(value) for name, value in row.values.items() if wants_all or name in names
    }
    for path in hidden:
        _remove(found, [path] if path in found else path.split("."))
    return found


def check_row_fields(
    names: Collection[str], hidden: Collection[str], columns: Collection[str], where: str
) -> None:
    """Checks that each field that a template names is in some row, and is not the answer.

    Args:
        columns: the fields of all rows.

    Raises:
        UserError: naming the field.
    """
    for name in sorted(set(names) & set(hidden)):
        raise UserError(
            f"{where}: template.question: the field {name!r} holds the answer, which would be "
            "given away"
        )
    for name in sorted(set(names) - set(columns) - {ROW}):
        raise UserError(
            f"{where}: template.question: no row has a field {name!r}{nearest(name, columns)}"
        )


def list_paths(field: str | None) -> list[str]:
    """The fields that an entry of ``fields`` is made of."""
    return re.findall(r"\{([^{}]+)\}", field or "") or [field for field in (field,) if field]


def _to_json(value: Any) -> Any:
    """A value as JSON data; a number that is written in its own way is the text of it."""
    value = to_plain_value(value)
    match value:
        case None | bool() | str():
            return value
        case WrittenInt() | WrittenFloat():
            return str(value)
        case int() | float():
            return value
        case bytes():
            return value.decode("utf-8", "replace")
        case Mapping():
            return {str(key): _to_json(one) for key, one in value.items()}
        case list() | tuple():
            return [_to_json(one) for one in value]
    return value.item() if hasattr(value, "item") else str(value)


def _remove(value: Any, parts: Sequence[str]) -> None:
    """Removes what lies at a path, in place; through a list of objects from each of them."""
    first, *rest = parts
    if isinstance(value, list) and not first.isdecimal():
        for one in value:
            _remove(one, parts)
    elif isinstance(value, list) and int(first) < len(value):
        if rest:
            _remove(value[int(first)], rest)
        else:
            value[int(first)] = None
    elif isinstance(value, dict) and first in value:
        if rest:
            _remove(value[first], rest)
        else:
            del value[first]
