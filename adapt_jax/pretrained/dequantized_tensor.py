"""A tensor of floats that is computed from quantised numbers in a file, part by part."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from adapt_jax.decoders.layout import Index, Shape

__all__ = ["DequantizedTensor", "Tensor"]


class Tensor(Protocol):
    """What loading needs of a tensor: of one in a file, and of one that is computed.

    Attributes:
        file: that it lies in.
        dtype: of the numbers that a slice of it gives, such as "F32".
        default_dtype: the dtype that the parameter has by default on an accelerator and in exports.
        by_columns: see DequantizedTensor.
        nbytes: that it takes in the file.
    """

    @property
    def file(self) -> Path: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def default_dtype(self) -> str: ...
    @property
    def by_columns(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    def __getitem__(self, index: Index) -> np.ndarray: ...


@dataclass(frozen=True)
class DequantizedTensor:
    """Quantised numbers that become float32 as they are read. It is sliced like a FileTensor.

    Attributes:
        shape: of the floats.
        read: (first, stop) -> this range of the axis that is read along, of all others the whole.
            Threads call it at once.
        default_dtype: the dtype that the parameter has by default on an accelerator and in exports.
        nbytes: in the file, scales included.
        by_columns: whether it is read along its last axis instead of its first, because neighbours
            along that axis share bytes or lie together in the file.
    """

    file: Path
    shape: Shape
    read: Callable[[int, int], np.ndarray]
    default_dtype: str
    nbytes: int
    by_columns: bool = False
    dtype: ClassVar[str] = "F32"

    def __getitem__(self, index: Index) -> np.ndarray:
        """A part, by a slice for each axis."""
        if not self.shape:  # a single number
            return self.read(0, 1)
        axis = len(self.shape) - 1 if self.by_columns else 0
        first, stop, _ = index[axis].indices(self.shape[axis])
        rest = (*index[:axis], slice(None), *index[axis + 1 :])
        return self.read(first, max(first, stop))[rest]
