"""AWQ (2306.00978), as AutoAWQ's "gemm" packs it: 4 bits, a scale and a zero for each group.

``qweight`` is I32 [I, O / 8] and ``qzeros`` I32 [G, O / 8], eight outputs in a word in the order
0, 2, 4, 6, 1, 3, 5, 7; ``scales`` is F16 [G, O].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.quantized.weight import (
    DamagedWeightError,
    QuantizedWeight,
    to_float32,
    unpack,
)

__all__ = ["check_awq", "dequantize_awq"]

BITS, PER_WORD = 4, 8
ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where in a word each output of eight lies


def check_awq(options: Mapping[str, Any]) -> str:
    """Why these options are not supported; an empty string if they are."""
    if (bits := options.get("bits", options.get("w_bit", BITS))) != BITS:
        return f"bits {bits!r:.40}; expected {BITS}"
    version = str(options.get("version", "gemm")).lower()
    return "" if version == "gemm" else f"version {version[:40]!r}; expected 'gemm'"


def dequantize_awq(weight: QuantizedWeight) -> DequantizedTensor:
    """The weight of floats, [O, I], read along its inputs."""
    codes, zeros = weight.get("qweight", "I32", axes=2), weight.get("qzeros", "I32", axes=2)
    scales = weight.get("scales", "F16", "BF16", "F32", axes=2)
    columns, rows, groups = codes.shape[0], codes.shape[1] * PER_WORD, scales.shape[0]
    weight.check_shape("scales", (groups, rows))
    weight.check_shape("qzeros", (groups, rows // PER_WORD))
    if not groups or columns % groups:
        raise DamagedWeightError(f"{weight.name}: {groups} groups for {columns} inputs")
    size = columns // groups

    def read(first: int, stop: int) -> np.ndarray:
        low, high = first // size, -(-stop // size)
        own = np.arange(first, stop) // size - low
        zero = _unpack_words(zeros[low:high, :])[own]
        numbers = _unpack_words(codes[first:stop, :])
        return ((numbers - zero) * to_float32(scales[low:high, :])[own]).T

    return weight.make((rows, columns), read, by_columns=True)


def _unpack_words(words: np.ndarray) -> np.ndarray:
    """[N, O / 8] words as [N, O] numbers in their order."""
    numbers = unpack(words, BITS, words.shape[1] * PER_WORD)
    in_order = numbers.reshape(len(words), -1, PER_WORD)[..., ORDER]
    return in_order.reshape(len(words), -1).astype(np.float32)
