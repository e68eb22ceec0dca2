"""What every format of quantised weights shares: the tensors that a weight is made of, and scales.

Axes of a weight: O outputs, I inputs; of its scales: G groups of inputs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adapt_jax.decoders.layout import Shape
from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.safetensors_io import FileTensor

__all__ = [
    "DamagedWeightError",
    "QuantizedWeight",
    "ReadRows",
    "divide_up",
    "make_scales",
    "read_number",
    "read_whole",
    "take_expert",
    "to_float32",
    "unpack",
]

ReadRows = Callable[[int, int], np.ndarray]  # a range of rows, [first, stop)


class DamagedWeightError(Exception):
    """A weight whose parts do not go together."""


@dataclass(frozen=True)
class QuantizedWeight:
    """The tensors of one weight.

    Attributes:
        name: that the weight has in a checkpoint of floats.
        parts: by the end of their names; each format says what ends it has.
        options: of the quantisation, as ``config.json`` has them.
        default_dtype: the dtype that the weight has by default on an accelerator and in exports.
    """

    name: str
    parts: Mapping[str, FileTensor]
    options: Mapping[str, Any]
    default_dtype: str

    def get(self, part: str, *dtypes: str, axes: int | None = None) -> FileTensor:
        """A part that must be there, of one of these dtypes and with this many axes.

        Raises:
            DamagedWeightError: it is not.
        """
        if part not in self.parts:
            raise DamagedWeightError(f"{self.name}: {part} is missing")
        tensor = self.parts[part]
        if tensor.dtype not in dtypes:
            expected = ", ".join(dtypes)
            raise DamagedWeightError(
                f"{self.name}: {part} is {tensor.dtype}, expected one of {expected}"
            )
        if axes is not None and len(tensor.shape) != axes:
            raise DamagedWeightError(
                f"{self.name}: {part} is {list(tensor.shape)}, expected {axes} axes"
            )
        return tensor

    def check_shape(self, part: str, *expected: Shape) -> None:
        """Raises DamagedWeightError where a part has none of the expected shapes."""
        if (shape := self.parts[part].shape) not in expected:
            listed = " or ".join(str(list(one)) for one in expected)
            raise DamagedWeightError(f"{self.name}: {part} is {list(shape)}, expected {listed}")

    def make(self, shape: Shape, read: ReadRows, by_columns: bool = False) -> DequantizedTensor:
        """The weight, of this shape and read so."""
        file = next(iter(self.parts.values())).file
        size = sum(tensor.nbytes for tensor in self.parts.values())
        return DequantizedTensor(file, shape, read, self.default_dtype, size, by_columns)


def read_whole(tensor: FileTensor) -> np.ndarray:
    """All of a small tensor."""
    return tensor[tuple(slice(0, size) for size in tensor.shape)]


def read_number(weight: QuantizedWeight, part: str) -> np.float32:
    """The one number of a part, as float32.

    Raises:
        DamagedWeightError: it is no float32, or not one number.
    """
    tensor = weight.get(part, "F32")
    if math.prod(tensor.shape) != 1:
        raise DamagedWeightError(
            f"{weight.name}: {part} is {list(tensor.shape)}, expected one number"
        )
    return np.float32(read_whole(tensor).reshape(-1)[0])


def take_expert(tensor: FileTensor, number: int) -> FileTensor:
    """One entry along the first axis."""
    start = tensor.start + number * (tensor.nbytes // max(tensor.shape[0], 1))
    return replace(tensor, shape=tensor.shape[1:], start=start)


def divide_up(count: int, size: int) -> int:
    """count / size, rounded up."""
    return -(-count // size)


def to_float32(array: np.ndarray) -> np.ndarray:
    """As float32, also from 8-bit floats."""
    return array.astype(np.float32, copy=False)


def unpack(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpacks numbers of ``bits`` bits from 32-bit words, lowest bits first, along the last axis.

    Args:
        count: of the numbers; the last word may hold fewer than it could.

    Returns:
        uint8, [..., count].
    """
    shifts = np.arange(0, 32 // bits * bits, bits, dtype=np.uint32)
    numbers = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return numbers.reshape(*words.shape[:-1], -1)[..., :count].astype(np.uint8)


def make_scales(
    weight: QuantizedWeight,
    part: str,
    shape: Shape,
    *,
    block: tuple[int, int] | None = None,
    groups: np.ndarray | None = None,
) -> ReadRows:
    """A function that gives the scales of a range of rows, in a form that multiplies [O, I].

    A weight has one scale; or one for each row; or, in each row, one for each group of inputs; or
    one for each block of rows and inputs.

    Args:
        shape: of the weight, [O, I].
        block: rows and inputs of a block.
        groups: [I], the group of each input, where groups are no neighbours.

    Raises:
        DamagedWeightError: the scales have a shape of none of these.
    """
    scale, (rows, columns) = weight.parts[part], shape
    if math.prod(scale.shape) == 1:
        whole = to_float32(read_whole(scale)).reshape(1, 1)
        return lambda first, stop: whole
    if block is not None:
        height, width = block
        weight.check_shape(part, (divide_up(rows, height), divide_up(columns, width)))

        def read_blocks(first: int, stop: int) -> np.ndarray:
            begin = first // height
            found = to_float32(scale[begin : divide_up(stop, height), :])
            by_row = found[np.arange(first, stop) // height - begin]
            return np.repeat(by_row, width, axis=1)[:, :columns]

        return read_blocks
    if scale.shape in ((rows,), (rows, 1)):
        return lambda first, stop: to_float32(scale[(slice(first, stop),)]).reshape(-1, 1)
    has_groups = len(scale.shape) == 2 and scale.shape[0] == rows and scale.shape[1] > 0
    if not has_groups or columns % scale.shape[1]:
        raise DamagedWeightError(
            f"{weight.name}: {part} is {list(scale.shape)} for a weight of {list(shape)}"
        )
    if groups is not None and groups.size and groups.max() >= scale.shape[1]:
        raise DamagedWeightError(f"{weight.name}: {part} has only {scale.shape[1]} groups")
    size = columns // scale.shape[1]
    of_input = np.arange(columns) // size if groups is None else groups
    return lambda first, stop: to_float32(scale[first:stop, :])[:, of_input]
