"""bitsandbytes: NF4 and FP4 (QLoRA, 2305.14314), and LLM.int8() (2208.07339).

4 bits: ``weight`` holds two numbers in a byte, the higher half first; ``weight.quant_map`` has the
float of each of the sixteen, ``weight.absmax`` a scale for each block of numbers. The scales may be
quantised themselves, to 8 bits with ``nested_`` tensors of the same kind. What is no tensor stands
in ``weight.quant_state.bitsandbytes__nf4`` as JSON. 8 bits: ``SCB`` has the largest absolute number
of each row, which is 127.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.field_checks import is_number, is_whole
from adapt_jax.pretrained.quantized.weight import (
    DamagedWeightError,
    QuantizedWeight,
    divide_up,
    read_whole,
    to_float32,
)
from adapt_jax.pretrained.safetensors_io import FileTensor
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import parse_json

__all__ = ["STATE", "check_bitsandbytes", "dequantize_bitsandbytes"]

KINDS = ("nf4", "fp4")
STATE = "weight.quant_state.bitsandbytes__"


def check_bitsandbytes(options: Mapping[str, Any]) -> str:
    """Why these options are not supported; an empty string if they are."""
    if options.get("load_in_8bit") or options.get("_load_in_8bit"):
        return ""
    kind = options.get("bnb_4bit_quant_type", "nf4")
    return "" if kind in KINDS else f"bnb_4bit_quant_type {str(kind)[:40]!r}; expected nf4 or fp4"


def dequantize_bitsandbytes(weight: QuantizedWeight) -> DequantizedTensor:
    """The weight of floats, read along its outputs."""
    return _dequantize_int8(weight) if "SCB" in weight.parts else _dequantize_4bit(weight)


def _dequantize_int8(weight: QuantizedWeight) -> DequantizedTensor:
    codes, largest = weight.get("weight", "I8", axes=2), weight.get("SCB", "F32")
    rows = codes.shape[0]
    weight.check_shape("SCB", (rows,), (rows, 1))
    if "weight_format" in weight.parts and read_whole(weight.parts["weight_format"]).any():
        raise DamagedWeightError(f"{weight.name}: weight_format is not 'row'")

    def read(first: int, stop: int) -> np.ndarray:
        scales = to_float32(largest[(slice(first, stop),)]).reshape(-1, 1) / np.float32(127)
        return to_float32(codes[first:stop, :]) * scales

    return weight.make(codes.shape, read)


def _dequantize_4bit(weight: QuantizedWeight) -> DequantizedTensor:
    state = _read_state(weight)
    shape, block = state["shape"], state["blocksize"]
    count = math.prod(shape)
    per_row = math.prod(shape[1:])
    stored = weight.parts["weight"]
    if stored.nbytes != divide_up(count, 2):
        raise DamagedWeightError(
            f"{weight.name}: {stored.nbytes} bytes for {count} numbers of 4 bits"
        )
    # whatever dtype the bytes are stored as
    codes = FileTensor(stored.file, stored.descriptor, "U8", (stored.nbytes,), stored.start)
    weight.get("weight.quant_map", "F32", axes=1)
    weight.check_shape("weight.quant_map", (16,))
    values = read_whole(weight.parts["weight.quant_map"])
    scales = _make_scales(weight, state, divide_up(count, block))

    def read(first: int, stop: int) -> np.ndarray:
        begin, end = first * per_row, stop * per_row
        packed = codes[(slice(begin // 2, divide_up(end, 2)),)]
        numbers = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)
        own = values[numbers[begin % 2 : begin % 2 + end - begin]]
        own *= scales(begin // block, divide_up(end, block))[
            np.arange(begin, end) // block - begin // block
        ]
        return own.reshape(stop - first, *shape[1:])

    return weight.make(shape, read)


def _read_state(weight: QuantizedWeight) -> dict[str, Any]:
    """What the JSON says, its types checked."""
    name = next((part for part in weight.parts if part.startswith(STATE)), STATE + "nf4")
    text = bytes(read_whole(weight.get(name, "U8", axes=1))).decode("utf-8", "replace")
    try:
        state = parse_json(text, weight.name)
    except UserError as mistake:
        raise DamagedWeightError(str(mistake)) from None
    fields: dict[str, Any] = state if isinstance(state, dict) else {}
    shape = fields.get("shape")
    if (
        not isinstance(shape, list)
        or not shape
        or not all(map(_is_size, shape))
        or not _is_size(fields.get("blocksize"))
    ):
        raise DamagedWeightError(f"{weight.name}: expected shape and blocksize in {name}")
    return {**fields, "shape": tuple(shape)}


def _is_size(value: Any) -> TypeGuard[int]:
    return is_whole(value, 1, 2**40)


def _make_scales(
    weight: QuantizedWeight, state: Mapping[str, Any], count: int
) -> Callable[[int, int], np.ndarray]:
    """A function that gives the scales of a range of blocks.

    Args:
        count: of all blocks.
    """
    absmax = weight.get("weight.absmax", "F32", "U8")
    weight.check_shape("weight.absmax", (count,))
    if absmax.dtype == "F32":
        return lambda first, stop: absmax[(slice(first, stop),)]
    block, offset = state.get("nested_blocksize"), state.get("nested_offset")
    if not _is_size(block) or not is_number(offset, -1e9, 1e9):
        raise DamagedWeightError(f"{weight.name}: nested_blocksize and nested_offset are missing")
    nested = weight.get("weight.nested_absmax", "F32")
    weight.check_shape("weight.nested_absmax", (divide_up(count, block),))
    weight.get("weight.nested_quant_map", "F32")
    weight.check_shape("weight.nested_quant_map", (256,))
    values = read_whole(weight.parts["weight.nested_quant_map"])

    def read(first: int, stop: int) -> np.ndarray:
        begin = first // block
        outer = nested[(slice(begin, divide_up(stop, block)),)]
        of_block = outer[np.arange(first, stop) // block - begin]
        return values[absmax[(slice(first, stop),)]] * of_block + np.float32(offset)

    return read
