"""8-bit floats with scales: DeepSeek's and Qwen's blocks, one scale for a tensor, or for each row.

``weight`` is F8_E4M3 [O, I]; ``weight_scale_inv`` holds, against its name, what it is multiplied
by: for each block of 128 x 128 (DeepSeek-V3 technical report, 2412.19437, section 3.3.2), or for
the whole. Others call it ``weight_scale``. The experts of a layer may be one tensor.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.field_checks import is_whole
from adapt_jax.pretrained.quantized.weight import (
    DamagedWeightError,
    QuantizedWeight,
    make_scales,
    take_expert,
    to_float32,
)

__all__ = ["FP8_DTYPES", "check_fp8", "dequantize_fp8"]

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")
DEFAULT_BLOCK = (128, 128)


def check_fp8(options: Mapping[str, Any]) -> str:
    """Why these options are not supported; an empty string if they are."""
    block = options.get("weight_block_size")
    is_block = isinstance(block, list) and len(block) == 2
    if block is None or (is_block and all(is_whole(one, 1, 2**31) for one in block)):
        return ""
    return f"weight_block_size {str(block)[:40]}; expected two numbers"


def dequantize_fp8(weight: QuantizedWeight) -> DequantizedTensor:
    """The weight of floats, read along its first axis."""
    codes = weight.get("", *FP8_DTYPES)
    part = next((name for name in ("_scale_inv", "_scale") if name in weight.parts), "_scale_inv")
    scale = weight.get(part, "F32", "F16", "BF16", "F8_E8M0")
    if len(codes.shape) == 3:
        return _dequantize_experts(weight, part)
    if len(codes.shape) != 2:
        raise DamagedWeightError(f"{weight.name}: expected two or three axes, {list(codes.shape)}")
    block = weight.options.get("weight_block_size") or DEFAULT_BLOCK
    has_blocks = len(scale.shape) == 2 and part == "_scale_inv" and scale.shape[0] != codes.shape[0]
    scales = make_scales(weight, part, codes.shape, block=tuple(block) if has_blocks else None)

    def read(first: int, stop: int) -> np.ndarray:
        return to_float32(codes[first:stop, :]) * scales(first, stop)

    return weight.make(codes.shape, read)


def _dequantize_experts(weight: QuantizedWeight, part: str) -> DequantizedTensor:
    """Experts in one tensor, each with scales of its own."""
    codes = weight.parts[""]
    count = codes.shape[0]
    if weight.parts[part].shape[:1] != (count,):
        raise DamagedWeightError(f"{weight.name}: {part} is not for {count} experts")

    def open_expert(number: int) -> DequantizedTensor:
        names = ("", part)
        parts = {name: take_expert(weight.parts[name], number) for name in names}
        return dequantize_fp8(replace(weight, parts=parts))

    return _stack_experts(weight, open_expert)


def _stack_experts(
    weight: QuantizedWeight, open_expert: Callable[[int], DequantizedTensor]
) -> DequantizedTensor:
    count, rows = weight.parts[""].shape[0], weight.parts[""].shape[1]
    open_expert(0)  # what is wrong with one is wrong with all

    def read(first: int, stop: int) -> np.ndarray:
        return np.stack([open_expert(number).read(0, rows) for number in range(first, stop)])

    return weight.make((count, *weight.parts[""].shape[1:]), read)
