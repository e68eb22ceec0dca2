"""MXFP4: 4-bit floats, 32 of them with one power of two (OCP Microscaling Formats 1.0).

gpt-oss keeps its experts so: ``*_blocks`` is U8 [E, O, I / 32, 16], two numbers in a byte, the
lower half first; ``*_scales`` is U8 [E, O, I / 32], exponents with a bias of 127. In a checkpoint
of floats the same tensor is [E, I, O].
"""

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.quantized.fp4 import to_exponent_scales, unpack_fp4
from adapt_jax.pretrained.quantized.weight import QuantizedWeight, take_expert

__all__ = ["dequantize_mxfp4"]

GROUP, GROUP_BYTES = 32, 16


def dequantize_mxfp4(weight: QuantizedWeight) -> DequantizedTensor:
    """The experts of floats, [E, I, O], read one expert at a time."""
    blocks, scales = weight.get("_blocks", "U8", axes=4), weight.get("_scales", "U8", axes=3)
    count, rows, groups, _ = blocks.shape
    weight.check_shape("_blocks", (count, rows, groups, GROUP_BYTES))
    weight.check_shape("_scales", (count, rows, groups))

    def read_expert(number: int) -> np.ndarray:
        index = (slice(0, rows), slice(0, groups))
        values = unpack_fp4(take_expert(blocks, number)[index])
        values *= to_exponent_scales(take_expert(scales, number)[index])[..., None]
        return values.reshape(rows, groups * GROUP).T

    def read(first: int, stop: int) -> np.ndarray:
        return np.stack([read_expert(number) for number in range(first, stop)])

    return weight.make((count, groups * GROUP, rows), read)
