"""Safetensors files: read in slices, without mapping them into memory, and written in one pass.

A file is eight bytes (the header's length, little-endian), a JSON header (each tensor's dtype,
shape and place), and the tensors' bytes, one behind the other without a gap.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.layout import Index, Shape

FLOATS: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
}
CODES = {dtype: name for name, dtype in FLOATS.items()}
# What else a file may hold, by bits: such weights are refused by their names, not as damage.
BITS = {
    **{name: 8 * dtype.itemsize for name, dtype in FLOATS.items()},
    **{"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8},
    **{"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64},
}
WRITERS = ("pt", "np", "tf", "flax", "mlx", "jax")  # metadata "format"
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


class CorruptFileError(Exception):
    """A file is no whole safetensors file; ``problems`` says all that is wrong with it."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file. Slicing it reads the rows that are asked for, and no others."""

    file: Path
    descriptor: int
    dtype: str
    shape: Shape
    start: int

    def __getitem__(self, index: Index) -> np.ndarray:
        """A part, by a slice for each axis; several threads may read at once."""
        kind = FLOATS[self.dtype]
        if not self.shape:
            return self.read_into(np.empty((), kind))
        first, last, _ = index[0].indices(self.shape[0])
        rows = np.empty((max(last - first, 0), *self.shape[1:]), kind)
        return self.read_into(rows, first)[(slice(None), *index[1:])]

    def read_into(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        """Fills ``rows``, contiguous and of the tensor's dtype, from row ``first`` on."""
        waiting = rows.reshape(-1).view(np.uint8).data
        start = self.start + first * count_bytes(self.shape[1:], rows.dtype)
        while waiting:
            count = os.preadv(self.descriptor, [waiting], start)  # at most 2 GiB at a time
            if count == 0:
                raise OSError(f"{self.file}: the file ended while it was read")
            start, waiting = start + count, waiting[count:]
        return rows


def read_header(file: Path, descriptor: int) -> dict[str, FileTensor]:
    """Every tensor of an open file by name; only the header is read.

    Raises:
        Damaged: with all that is wrong. The bytes of tensors carry no checksum, so damage inside
            them cannot be seen.
    """
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise CorruptFileError(
            [f"no whole header (it is said to be {length} bytes, the file has {size})"]
        )
    try:
        text = os.pread(descriptor, length, 8).decode("utf-8")
        pairs = json.loads(text, object_pairs_hook=Pairs)
    except ValueError as error:
        raise CorruptFileError([f"its header is not JSON ({error})"]) from None
    if not isinstance(pairs, Pairs):
        raise CorruptFileError(["its header is no JSON object"])
    data, problems, places, tensors = size - 8 - length, [], [], {}
    for name, entry in pairs:
        if name == "__metadata__":
            problems += _wrong_metadata(entry)
            continue
        wrong, dtype, shape, begin, end = _entry(entry)
        if wrong:
            problems.append(f"{name}: {wrong}")
            continue
        if name in tensors:
            problems.append(f"{name}: stands twice in the header")
        if end > data:
            problems.append(f"{name}: ends at byte {end} of {data}, so the file was cut short")
        places.append((begin, end, name))
        tensors[name] = FileTensor(file, descriptor, dtype, shape, 8 + length + begin)
    if not problems:
        problems = list(_gaps(sorted(places), data))
    if problems:
        raise CorruptFileError(problems)
    return tensors


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it stands in the text: a name that stands twice stays visible."""


def _wrong_metadata(entry: Any) -> list[str]:
    if not isinstance(entry, Pairs) or not all(isinstance(value, str) for _, value in entry):
        return ["__metadata__: expected texts"]
    written = dict(entry).get("format", "pt")
    return [] if written in WRITERS else [f"__metadata__: unknown format {written!r}"]


def _entry(entry: Any) -> tuple[str, str, Shape, int, int]:
    """(what is wrong, dtype, shape, first byte, end) of a tensor's entry in the header."""
    fields: dict[str, Any] = dict(entry) if isinstance(entry, Pairs) else {}
    if set(fields) != {"dtype", "shape", "data_offsets"}:
        return "expected dtype, shape and data_offsets", "", (), 0, 0
    dtype, shape, place = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"unknown dtype {dtype!r}", "", (), 0, 0
    for numbers in (shape, place):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            return f"expected whole numbers, found {numbers!r}", "", (), 0, 0
    if len(place) != 2 or place[0] > place[1]:
        return f"data_offsets {place} are no range", "", (), 0, 0
    needed, held = math.prod(shape) * BITS[dtype], place[1] - place[0]
    if needed != 8 * held:
        return f"{dtype} {shape} takes {needed // 8} bytes, its place has {held}", "", (), 0, 0
    return "", dtype, tuple(shape), place[0], place[1]


def _gaps(places: list[tuple[int, int, str]], data: int) -> Iterator[str]:
    """What keeps the tensors from standing one behind the other, first byte to last."""
    at = 0
    for begin, end, name in places:
        if begin != at:
            yield f"{name}: begins at byte {begin}, expected {at}"
        at = end
    if at != data:
        yield f"{data - at} bytes follow the last tensor"


def write_tensors(
    file: Path, shapes: Mapping[str, Shape], dtype: Any, arrays: Iterator[tuple[str, np.ndarray]]
) -> None:
    """Writes a file, one tensor after the other: no more than one of them is held.

    Args:
        shapes: of every tensor, by name.
        dtype: of all of them, one of FLOATS.
        arrays: (name, array), each name of ``shapes`` once, in any order.
    """
    kind = np.dtype(dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in sorted(shapes.items()):
        end = at + count_bytes(shape, kind)
        header[name] = {"dtype": CODES[kind], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, array in arrays:
            out.seek(8 + len(text) + header[name]["data_offsets"][0])
            out.write(np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8).data)
        out.truncate(8 + len(text) + at)


def count_bytes(shape: Shape, dtype: Any) -> int:
    """Bytes of an array."""
    return math.prod(shape) * np.dtype(dtype).itemsize
