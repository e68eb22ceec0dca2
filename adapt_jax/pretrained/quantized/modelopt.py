"""NVIDIA's Model Optimizer: 8-bit floats with one scale, and NVFP4.

NVFP4 holds two 4-bit floats in a byte of ``weight``, the lower half first; ``weight_scale`` is
F8_E4M3 [O, I / 16], one for each group of 16 inputs, and ``weight_scale_2`` multiplies all of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.quantized.fp4 import dequantize_fp4
from adapt_jax.pretrained.quantized.fp8 import FP8_DTYPES, dequantize_fp8
from adapt_jax.pretrained.quantized.weight import QuantizedWeight, read_number, to_float32

__all__ = ["check_modelopt", "dequantize_modelopt"]

ALGORITHMS = ("FP8", "NVFP4")
GROUP = 16


def check_modelopt(options: Mapping[str, Any]) -> str:
    """Why these options are not supported; an empty string if they are."""
    algorithm = options.get("quant_algo")
    if algorithm in ALGORITHMS:
        return ""
    return f"quant_algo {str(algorithm)[:40]!r}; expected one of {', '.join(ALGORITHMS)}"


def dequantize_modelopt(weight: QuantizedWeight) -> DequantizedTensor:
    """The weight of floats, read along its outputs."""
    codes = weight.get("", *FP8_DTYPES, "U8", axes=2)
    if codes.dtype != "U8":
        return dequantize_fp8(weight)
    scales = weight.get("_scale", "F8_E4M3", axes=2)
    outer = read_number(weight, "_scale_2")

    def read_scales(first: int, stop: int) -> np.ndarray:
        return to_float32(scales[first:stop, :]) * outer

    return dequantize_fp4(weight, codes, GROUP, read_scales)
