"""Reads what a GGUF file says: its metadata, and where its tensors lie.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. A header
holds metadata (typed keys and values) and the name, shape, type and place of each tensor; the
tensors follow, aligned. A large model is divided into several files.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from adapt_jax.decoders.layout import Shape
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import check_is_no_pointer

__all__ = ["GGUF_SUFFIX", "GGUFFile", "GGUFTensor", "import_gguf", "is_gguf", "read_gguf"]

GGUF_SUFFIX = ".gguf"
VERSIONS = (2, 3)
MAX_ITEMS = 2**26  # of an array of metadata; the largest vocabularies have 2**18 tokens
MAX_TENSORS, MAX_KEYS, MAX_FILES = 2**18, 2**16, 1000
MAX_AXES = 4
MAX_DEPTH = 8  # of arrays in arrays of metadata
STRING, ARRAY = 8, 9
# The types of metadata whose size is fixed, as NumPy names them.
SCALARS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1"},
    **{10: "<u8", 11: "<i8", 12: "<f8"},
}
FLOAT32, BOOL = 6, 7
PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies.

    Attributes:
        shape: of its numbers, the axis that is contiguous last.
        kind: as GGML names it, such as "Q4_K".
        row_bytes: of all numbers along the last axis; rows are quantised one by one.
        start: of its first byte in the file.
    """

    file: Path
    shape: Shape
    kind: str
    row_bytes: int
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class GGUFFile:
    """Metadata and tensors by name, of all files of a divided model."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    @property
    def architecture(self) -> str:
        """The name that llama.cpp has for it, such as "qwen3"."""
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own metadata."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def get_one(self, key: str) -> Any:
        """A value that may be listed for each layer.

        Raises:
            UserError: it is not the same in all of them.
        """
        value = self.get(key)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            raise UserError(f"{self.path}: {key} differs between layers, which is not supported")
        return value[0]

    def has(self, name: str) -> bool:
        """Whether the first layer has a tensor of this name."""
        return f"blk.0.{name}" in self.tensors


class _DamageError(Exception):
    """What is wrong with a file."""


def is_gguf(path: Path) -> bool:
    """Whether this is the path of a GGUF file, there or not."""
    return path.name.endswith(GGUF_SUFFIX)


def import_gguf() -> ModuleType:
    """The package ``gguf``, which knows the types of numbers and the names of tensors."""
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the package gguf: pip install adapt-jax[gguf]") from None
    module: ModuleType = gguf
    return module


def read_gguf(path: Path) -> GGUFFile:
    """Metadata and places of tensors; the tensors are not read.

    Args:
        path: of the file; of a divided model, the first one.

    Raises:
        UserError: it is not there, damaged, or not a whole model.
    """
    first = _read_part(path)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return first
    match = PART.fullmatch(path.name)
    if match is None or int(match[2]) != 1 or int(match[3]) != count or count > MAX_FILES:
        raise UserError(
            f"{path}: one of {count} files of a model; expected the first, NAME-00001-of-"
            f"{min(count, 99999):05}.gguf"
        )
    tensors = dict(first.tensors)
    for number in range(2, count + 1):
        part = path.with_name(f"{match[1]}{number:05}-of-{count:05}.gguf")
        of_part = _read_part(part).tensors
        if twice := tensors.keys() & of_part.keys():
            raise UserError(f"{part}: holds again {min(twice)[:80]}")
        tensors |= of_part
    total = first.metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise UserError(f"{path}: its {count} files hold {len(tensors)} tensors, expected {total}")
    return GGUFFile(path, first.metadata, tensors)


def _read_part(path: Path) -> GGUFFile:
    try:
        check_is_no_pointer(path)
        status = path.stat()
        return _read_unchanged(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except _DamageError as damage:
        raise UserError(f"{path}: not readable as GGUF: {damage}") from None


@lru_cache(maxsize=4)
def _read_unchanged(path: Path, size: int, _modified: int) -> GGUFFile:
    """A file that is read once: config, tokenizer and weights all ask for it."""
    with path.open("rb", buffering=1 << 20) as opened:
        return _HeaderReader(path, opened, size).read()


class _HeaderReader:
    """Reads the header from first to last byte; counts are checked before memory is taken."""

    def __init__(self, path: Path, opened: BinaryIO, size: int):
        self.path, self.opened, self.size, self.at = path, opened, size, 0

    def read(self) -> GGUFFile:
        if self.read_bytes(4) != b"GGUF":
            raise _DamageError("it does not begin with GGUF")
        version = self.unpack("<I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            what = "it is big-endian" if swapped else f"version {version}"
            raise _DamageError(f"{what}; expected little-endian, version 2 or 3")
        num_tensors, num_keys = self.unpack("<Q"), self.unpack("<Q")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            raise _DamageError(f"it names {num_tensors} tensors and {num_keys} keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self.read_text()
            if key in metadata:
                raise _DamageError(f"it holds the key {key[:80]} twice")
            metadata[key] = self.read_value(self.unpack("<I"))
        entries = [self.read_entry() for _ in range(num_tensors)]
        if len({name for name, *_ in entries}) < num_tensors:
            raise _DamageError("it holds two tensors of one name")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise _DamageError(f"general.alignment {alignment!r:.40}; expected a number of bytes")
        data = math.ceil(self.at / alignment) * alignment
        return GGUFFile(self.path, metadata, dict(self.place_tensors(entries, data)))

    def read_bytes(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise _DamageError(f"cut short: byte {self.at + count} is needed, it has {self.size}")
        self.at += count
        return self.opened.read(count)

    def unpack(self, form: str) -> int:
        return int(struct.unpack(form, self.read_bytes(struct.calcsize(form)))[0])

    def read_text(self) -> str:
        try:
            return self.read_bytes(self.unpack("<Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise _DamageError(f"a text before byte {self.at} is not UTF-8") from None

    def read_value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.read_text()
        if kind == ARRAY:
            item, count = self.unpack("<I"), self.unpack("<Q")
            if count > min(MAX_ITEMS, self.size):
                raise _DamageError(f"an array before byte {self.at} has {count} items")
            if depth == MAX_DEPTH:
                raise _DamageError(f"arrays in arrays before byte {self.at}")
            if item in (STRING, ARRAY):
                return [self.read_value(item, depth + 1) for _ in range(count)]
            return self.read_numbers(item, count).tolist()
        [number] = self.read_numbers(kind, 1)
        # 1e-05 instead of 9.999999747378752e-06: the same float32
        return float(str(number)) if kind == FLOAT32 else number.item()

    def read_numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in SCALARS:
            raise _DamageError(f"metadata of the unknown type {kind} before byte {self.at}")
        dtype = np.dtype(SCALARS[kind])
        found = np.frombuffer(self.read_bytes(count * dtype.itemsize), dtype)
        return found != 0 if kind == BOOL else found

    def read_entry(self) -> tuple[str, Shape, int, int]:
        """Name, shape, type and place of a tensor."""
        name, axes = self.read_text(), self.unpack("<I")
        if not 0 < axes <= MAX_AXES:
            raise _DamageError(f"{name[:80]}: {axes} axes")
        shape = tuple(self.unpack("<Q") for _ in range(axes))[::-1]
        return name, shape, self.unpack("<I"), self.unpack("<Q")

    def place_tensors(
        self, entries: list[tuple[str, Shape, int, int]], data: int
    ) -> Iterator[tuple[str, GGUFTensor]]:
        """The name and place of each tensor, which is checked to lie in the file."""
        gguf = import_gguf()
        for name, shape, number, offset in entries:
            try:
                kind = gguf.GGMLQuantizationType(number)
            except ValueError:
                raise _DamageError(
                    f"{name[:80]} has the type {number}, which this version of the package gguf "
                    "does not know: pip install -U gguf"
                ) from None
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if shape[-1] % block:
                raise _DamageError(f"{name[:80]}: {shape[-1]} numbers in blocks of {block}")
            tensor = GGUFTensor(
                self.path, shape, kind.name, shape[-1] // block * block_bytes, data + offset
            )
            if tensor.start + tensor.nbytes > self.size:
                end = tensor.start + tensor.nbytes
                raise _DamageError(f"cut short: {name[:80]} ends at byte {end}, it has {self.size}")
            yield name, tensor
