"""4-bit floats (E2M1), two of them in a byte, the lower half first."""

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.quantized.weight import (
    DamagedWeightError,
    QuantizedWeight,
    ReadRows,
)
from adapt_jax.pretrained.safetensors_io import FileTensor

__all__ = ["FP4_VALUES", "dequantize_fp4", "to_exponent_scales", "unpack_fp4"]

EXPONENT_BIAS = 127
# by the four bits: sign, two of exponent, one of mantissa
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)


def unpack_fp4(codes: np.ndarray) -> np.ndarray:
    """The two numbers of each byte, the lower half first: [..., n] to [..., 2 n]."""
    values = np.empty((*codes.shape, 2), np.float32)
    values[..., 0] = FP4_VALUES[codes & 15]
    values[..., 1] = FP4_VALUES[codes >> 4]
    return values.reshape(*codes.shape[:-1], -1)


def to_exponent_scales(exponents: np.ndarray) -> np.ndarray:
    """Powers of two from exponents with a bias (E8M0)."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - EXPONENT_BIAS)


def dequantize_fp4(
    weight: QuantizedWeight, codes: FileTensor, group: int, read_scales: ReadRows
) -> DequantizedTensor:
    """The weight [O, I] of floats, read along its outputs.

    Args:
        codes: [O, I / 2], two numbers in a byte.
        group: inputs that share a scale. The scales are in the part ``_scale``, [O, I / group].
        read_scales: gives the scales of a range of outputs.

    Raises:
        DamagedWeightError: the inputs are no whole number of groups, or have another number of
            scales.
    """
    rows, columns = codes.shape[0], codes.shape[1] * 2
    if columns % group:
        raise DamagedWeightError(f"{weight.name}: {columns} inputs in groups of {group}")
    weight.check_shape("_scale", (rows, columns // group))

    def read(first: int, stop: int) -> np.ndarray:
        scales = np.repeat(read_scales(first, stop), group, axis=1)
        return unpack_fp4(codes[first:stop, :]) * scales

    return weight.make((rows, columns), read)
