"""GPTQ (2210.17323): whole numbers of 2, 4 or 8 bits, with a scale and a zero for each group.

``qweight`` is I32 [I * bits / 32, O], its words packed along the inputs; ``qzeros`` is I32
[G, O * bits / 32], packed along the outputs; ``scales`` is F16 [G, O]; ``g_idx`` [I] names the
group of each input, where inputs were ordered by their activations (``desc_act``).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.field_checks import is_whole
from adapt_jax.pretrained.quantized.weight import (
    DamagedWeightError,
    QuantizedWeight,
    read_whole,
    to_float32,
    unpack,
)

__all__ = ["check_gptq", "dequantize_gptq"]

BITS = (2, 4, 8)
# a one in each number of a word
ONES = {bits: sum(1 << at for at in range(0, 32, bits)) for bits in BITS}
FORMATS = ("gptq", "gptq_v2")


def check_gptq(options: Mapping[str, Any]) -> str:
    """Why these options are not supported; an empty string if they are."""
    if (bits := options.get("bits")) not in BITS:
        return f"bits {bits!r:.40}; expected one of {', '.join(map(str, BITS))}"
    kind = _find_format(options)
    if kind not in FORMATS:
        return f"checkpoint_format {kind!r:.40}; expected one of {', '.join(FORMATS)}"
    size = options.get("group_size")
    if size is not None and not is_whole(size, -1, 2**31):
        return f"group_size {size!r:.40}; expected a whole number"
    return ""


def _find_format(options: Mapping[str, Any]) -> Any:
    return options.get("checkpoint_format") or options.get("format") or "gptq"


def dequantize_gptq(weight: QuantizedWeight) -> DequantizedTensor:
    """The weight of floats, [O, I], read along its inputs."""
    bits = int(weight.options["bits"])
    per_word = 32 // bits
    codes = weight.get("qweight", "I32", axes=2)
    scales = weight.get("scales", "F16", "BF16", "F32", axes=2)
    zeros = weight.get("qzeros", "I32", axes=2)
    columns, rows = codes.shape[0] * per_word, codes.shape[1]
    groups = scales.shape[0]
    weight.check_shape("scales", (groups, rows))
    weight.check_shape("qzeros", (groups, -(-rows // per_word)))
    of_input = _read_groups(weight, columns, groups)
    adds_one = _find_format(weight.options) != "gptq_v2"

    def read(first: int, stop: int) -> np.ndarray:
        # whole words of inputs, then those that are asked for
        begin, end = first // per_word, -(-stop // per_word)
        packed = codes[begin:end, :]
        numbers = unpack(packed.T, bits, (end - begin) * per_word)
        numbers = numbers[:, first - begin * per_word : stop - begin * per_word]
        own = of_input[first:stop]
        low, high = int(own.min()), int(own.max()) + 1
        words = zeros[low:high, :]
        if adds_one:
            # version 1 stores zeros less one; whole words, as GPTQModel subtracts and adds it
            words = (words.view(np.uint32) + np.uint32(ONES[bits])).view(np.int32)
        zero = unpack(words, bits, rows)[own - low].astype(np.float32)
        scale = to_float32(scales[low:high, :])[own - low]
        return (numbers.astype(np.float32) - zero.T) * scale.T

    return weight.make((rows, columns), read, by_columns=True)


def _read_groups(weight: QuantizedWeight, columns: int, groups: int) -> np.ndarray:
    """[I]: the group of each input."""
    if "g_idx" not in weight.parts:
        size = int(weight.options.get("group_size") or -1)
        size = columns if size < 1 else size
        if -(-columns // size) != groups:
            raise DamagedWeightError(
                f"{weight.name}: {groups} groups of {size} for {columns} inputs"
            )
        return np.arange(columns) // size
    weight.get("g_idx", "I32", "I64", axes=1)
    weight.check_shape("g_idx", (columns,))
    found = read_whole(weight.parts["g_idx"])
    if columns and not (0 <= found.min() and found.max() < groups):
        raise DamagedWeightError(f"{weight.name}: g_idx names other groups than 0 to {groups - 1}")
    return found
