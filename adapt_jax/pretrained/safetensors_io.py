"""Safetensors files: read in slices, without mapping them into memory, and written in one pass.

A file is eight bytes (the header's length, little-endian), a JSON header (each tensor's dtype,
shape and place), and the tensors' bytes, one after the other without a gap (the format's README,
https://github.com/huggingface/safetensors).
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.layout import Index, Shape
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_file
from adapt_jax.utils.text_files import check_is_no_pointer, parse_json

__all__ = [
    "DTYPES",
    "DTYPE_NAMES",
    "FLOATS",
    "CorruptFileError",
    "FileTensor",
    "count_bytes",
    "read_header",
    "read_metadata",
    "read_tensors",
    "write_tensors",
]

FLOATS: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
}
DTYPE_NAMES = {dtype: name for name, dtype in FLOATS.items()}
# What quantised weights are made of; a number takes whole bytes.
_CODES: dict[str, np.dtype] = {
    **{name: np.dtype(name.lower().replace("i", "int")) for name in ("I8", "I16", "I32", "I64")},
    **{name: np.dtype(name.replace("U", "uint")) for name in ("U8", "U16", "U32", "U64")},
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": jnp.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": jnp.dtype(jnp.float8_e5m2),
    "F8_E8M0": jnp.dtype(jnp.float8_e8m0fnu),
}
DTYPES = FLOATS | _CODES
# The bits of one number. Weights that are no floats are refused by their names, not as damage.
_BITS = {
    **{name: 8 * dtype.itemsize for name, dtype in FLOATS.items()},
    **{"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8},
    **{"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64},
}
_WRITERS = ("pt", "np", "tf", "flax", "mlx", "jax")  # metadata "format"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class CorruptFileError(Exception):
    """A file is not a whole safetensors file; ``problems`` lists all that is wrong with it."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class FileTensor:
    """A tensor in an open file. Slicing it reads the rows that are asked for, and no others.

    Attributes:
        descriptor: of the open file.
        dtype: as the file names it, such as "BF16".
        start: of its first byte in the file.
        by_columns: see DequantizedTensor.
    """

    file: Path
    descriptor: int
    dtype: str
    shape: Shape
    start: int
    by_columns: ClassVar[bool] = False

    @property
    def default_dtype(self) -> str:
        """The dtype that the parameter has by default on an accelerator and in exports."""
        return self.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _BITS[self.dtype] // 8

    def __getitem__(self, index: Index) -> np.ndarray:
        """A part, by a slice for each axis; several threads may read at once."""
        kind = DTYPES[self.dtype]
        if not self.shape:
            return self.read_into(np.empty((), kind))
        first, last, _ = index[0].indices(self.shape[0])
        rows = np.empty((max(last - first, 0), *self.shape[1:]), kind)
        return self.read_into(rows, first)[(slice(None), *index[1:])]

    def read_into(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        """Fills ``rows``, contiguous and of the tensor's dtype, from row ``first`` on."""
        rest = rows.reshape(-1).view(np.uint8).data
        start = self.start + first * count_bytes(self.shape[1:], rows.dtype)
        while rest:
            count = os.preadv(self.descriptor, [rest], start)  # at most 2 GiB at a time
            if count == 0:
                raise OSError(f"{self.file}: the file ended while it was read")
            start, rest = start + count, rest[count:]
        return rows


def read_header(file: Path, descriptor: int) -> dict[str, FileTensor]:
    """Every tensor of an open file by name; only the header is read.

    Raises:
        CorruptFileError: with all that is wrong. The bytes of tensors carry no checksum, so damage
            inside them cannot be seen.
    """
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise CorruptFileError(
            [f"no whole header (it is said to be {length} bytes, the file has {size})"]
        )
    header = _parse_header(os.pread(descriptor, length, 8))
    data_size, problems, places, tensors = size - 8 - length, list[str](), [], {}
    for name, entry in header.items():
        if name == "__metadata__":
            problems += _check_metadata(entry)
            continue
        problem, dtype, shape, begin, end = _read_entry(entry)
        if problem:
            problems.append(f"{name}: {problem}")
            continue
        if end > data_size:
            problems.append(f"{name}: ends at byte {end} of {data_size}, so the file was cut short")
        places.append((begin, end, name))
        tensors[name] = FileTensor(file, descriptor, dtype, shape, 8 + length + begin)
    if not problems:
        problems = list(_find_gaps(sorted(places), data_size))
    if problems:
        raise CorruptFileError(problems)
    return tensors


def read_metadata(descriptor: int) -> dict[str, str]:
    """The metadata of an open file whose header ``read_header`` has checked."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    metadata: dict[str, str] = _parse_header(os.pread(descriptor, length, 8)).get(
        "__metadata__", {}
    )
    return metadata


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """All tensors of a small file by name, each in its own dtype.

    Raises:
        UserError: the file is absent, damaged or a Git LFS pointer, or holds other than floats.
    """
    try:
        check_is_no_pointer(file)
        with file.open("rb", buffering=0) as opened:
            tensors = read_header(file, opened.fileno())
            other = [f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype not in FLOATS]
            if other:
                shown = ", ".join(other)[:300]
                raise UserError(f"{file}: expected one of {', '.join(FLOATS)}: {shown}")
            return {name: t[tuple(map(slice, t.shape))] for name, t in tensors.items()}
    except (OSError, CorruptFileError) as error:
        raise UserError(f"{file}: not readable as safetensors: {str(error)[:300]}") from None


def _parse_header(content: bytes) -> dict[str, Any]:
    """The header's JSON object."""
    try:
        header = parse_json(content.decode("utf-8"), "its header")
    except UnicodeDecodeError:
        raise CorruptFileError(["its header is not JSON (not UTF-8 text)"]) from None
    except UserError as mistake:
        raise CorruptFileError([str(mistake)]) from None
    if not isinstance(header, dict):
        raise CorruptFileError(["its header is no JSON object"])
    return header


def _check_metadata(entry: Any) -> list[str]:
    """The problems of the entry ``__metadata__``."""
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        return ["__metadata__: expected texts"]
    writer = entry.get("format", "pt")
    return [] if writer in _WRITERS else [f"__metadata__: unknown format {writer[:40]!r}"]


def _read_entry(entry: Any) -> tuple[str, str, Shape, int, int]:
    """(what is wrong, dtype, shape, first byte, end) of a tensor's entry in the header."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    if set(fields) != {"dtype", "shape", "data_offsets"}:
        return "expected dtype, shape and data_offsets", "", (), 0, 0
    dtype, shape, place = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        return f"unknown dtype {str(dtype)[:40]!r}", "", (), 0, 0
    for numbers in (shape, place):
        if not isinstance(numbers, list) or not all(_is_count(number) for number in numbers):
            return f"expected whole numbers, found {str(numbers)[:80]}", "", (), 0, 0
    if len(place) != 2 or place[0] > place[1]:
        return f"data_offsets {place} are no range", "", (), 0, 0
    needed, held = math.prod(shape) * _BITS[dtype], place[1] - place[0]
    if needed != 8 * held:
        return f"{dtype} {shape} takes {needed // 8} bytes, its place has {held}", "", (), 0, 0
    return "", dtype, tuple(shape), place[0], place[1]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _find_gaps(places: list[tuple[int, int, str]], data: int) -> Iterator[str]:
    """Gaps and overlaps of the tensors, which must follow one another from first byte to last."""
    at = 0
    for begin, end, name in places:
        if begin != at:
            yield f"{name}: begins at byte {begin}, expected {at}"
        at = end
    if at != data:
        yield f"{data - at} bytes follow the last tensor"


def write_tensors(
    file: Path,
    shapes: Mapping[str, Shape],
    dtype: Any,
    arrays: Iterator[tuple[str, np.ndarray]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file, one tensor after the other: no more than one of them is held in memory.

    The file is written beside its place, then put there whole.

    Args:
        shapes: of every tensor, by name.
        dtype: of all of them, one of FLOATS; or of each by name.
        arrays: (name, array), each name of ``shapes`` once, in any order.
        metadata: texts by name, besides the format.
    """
    dtypes = {
        name: np.dtype(dtype[name] if isinstance(dtype, Mapping) else dtype) for name in shapes
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    at = 0
    for name, shape in sorted(shapes.items()):
        end = at + count_bytes(shape, dtypes[name])
        header[name] = {
            "dtype": DTYPE_NAMES[dtypes[name]],
            "shape": list(shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes

    def write(path: Path) -> None:
        with path.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name, array in arrays:
                out.seek(8 + len(text) + header[name]["data_offsets"][0])
                out.write(np.ascontiguousarray(array, dtypes[name]).reshape(-1).view(np.uint8).data)
            out.truncate(8 + len(text) + at)

    replace_file(file, write)


def count_bytes(shape: Shape, dtype: Any) -> int:
    """Bytes of an array."""
    return math.prod(shape) * np.dtype(dtype).itemsize
