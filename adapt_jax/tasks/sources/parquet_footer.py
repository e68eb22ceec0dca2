"""How many values a Parquet file holds, from its footer.

pyarrow's own view of a column's metadata ends the whole process where a damaged footer contradicts
itself (pyarrow 26), so the footer is read here. It is written in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), its fields are
those of parquet.thrift.
"""

from pathlib import Path
from typing import Any

from adapt_jax.utils.errors import UserError

__all__ = ["read_parquet_sizes"]

MAX_FOOTER_BYTES = 2**28
MAX_DEPTH = 32
_BINARY, _LIST, _SET, _MAP, _STRUCT = 8, 9, 10, 11, 12
# field numbers of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA, _NUM_VALUES = 4, 1, 3, 3, 5


def read_parquet_sizes(path: Path) -> list[tuple[int, int]]:
    """The rows and the values of each row group, values within lists counted one by one.

    Raises:
        UserError: the footer is damaged.
    """
    content = _read_footer(path)
    try:
        metadata = _Thrift(content).read_struct()
        return [
            (
                int(group[_NUM_ROWS]),
                sum(int(column[_META_DATA][_NUM_VALUES]) for column in group[_COLUMNS]),
            )
            for group in metadata[_ROW_GROUPS]
        ]
    except (IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: cannot be read as Parquet (its footer is damaged)") from None


def _read_footer(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if size < 12 or end[4:] != b"PAR1" or length > min(size - 12, MAX_FOOTER_BYTES):
            raise UserError(f"{path}: cannot be read as Parquet (no whole footer at its end)")
        file.seek(size - 8 - length)
        return file.read(length)


class _Thrift:
    """Reads values of the compact protocol; a struct becomes a dict by the numbers of its fields.

    Damage shows as IndexError, TypeError or ValueError.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.depth = content, 0, 0

    def read_struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._read_byte()) != 0:
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._read_zigzag()
            fields[number] = kind == 1 if kind in (1, 2) else self._read_value(kind)
        return fields

    def _read_value(self, kind: int) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError
        value = self._read_kind(kind)
        self.depth -= 1
        return value

    def _read_kind(self, kind: int) -> Any:
        if kind in (1, 2, 3):  # within lists a boolean is a byte
            return self._read_byte()
        if kind in (4, 5, 6):
            return self._read_zigzag()
        if kind == 7:
            return self._skip(8)
        if kind == _BINARY:
            return self._skip(self._read_varint())
        if kind in (_LIST, _SET):
            head = self._read_byte()
            size = head >> 4 if head >> 4 < 15 else self._read_varint()
            return [self._read_value(head & 15) for _ in range(self._check_size(size))]
        if kind == _MAP:
            size = self._check_size(self._read_varint())
            kinds = self._read_byte() if size else 0
            return [
                (self._read_value(kinds >> 4), self._read_value(kinds & 15)) for _ in range(size)
            ]
        if kind == _STRUCT:
            return self.read_struct()
        raise ValueError

    def _check_size(self, size: int) -> int:
        """Each value has a byte or more, so that a damaged size takes no memory."""
        if size > len(self.content) - self.at:
            raise ValueError
        return size

    def _skip(self, size: int) -> None:
        if size > len(self.content) - self.at:
            raise ValueError
        self.at += size

    def _read_byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _read_varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._read_byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError

    def _read_zigzag(self) -> int:
        value = self._read_varint()
        return (value >> 1) ^ -(value & 1)
