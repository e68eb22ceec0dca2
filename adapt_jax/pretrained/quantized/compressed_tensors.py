"""The format compressed-tensors, which llm-compressor and vLLM write.

A weight is ``weight`` of 8-bit floats or whole numbers, or ``weight_packed``: whole numbers of 2, 4
or 8 bits in 32-bit words, or 4-bit floats in bytes. ``weight_scale`` multiplies it, by tensor, row,
group of inputs or block; ``weight_zero_point`` is subtracted first. The tensors themselves show
which it is; ``config.json`` says how many bits there are, and how large blocks are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adapt_jax.decoders.layout import Shape
from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.field_checks import is_whole
from adapt_jax.pretrained.quantized.fp4 import dequantize_fp4, to_exponent_scales
from adapt_jax.pretrained.quantized.fp8 import FP8_DTYPES
from adapt_jax.pretrained.quantized.weight import (
    DamagedWeightError,
    QuantizedWeight,
    ReadRows,
    divide_up,
    make_scales,
    read_number,
    read_whole,
    to_float32,
    unpack,
)
from adapt_jax.pretrained.safetensors_io import DTYPES

__all__ = ["check_compressed_tensors", "dequantize_compressed_tensors"]

FORMATS = (
    *("dense", "naive-quantized", "float-quantized", "int-quantized", "pack-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mixed-precision"),
)
PACKED_BITS = (2, 4, 8)
SCALES = ("F32", "F16", "BF16")


def check_compressed_tensors(options: Mapping[str, Any]) -> str:
    """Why these options are not supported; an empty string if they are."""
    kinds = [options.get("format"), *(group.get("format") for group in _list_groups(options))]
    for kind in kinds:
        if kind is not None and kind not in FORMATS:
            return f"format {str(kind)[:40]!r}; expected one of {', '.join(FORMATS)}"
    sparsity = options.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        return f"sparsity_config of format {str(sparsity['format'])[:40]!r}; expected 'dense'"
    if options.get("transform_config"):
        return "transform_config (weights that are rotated); expected none"
    for weights in _list_weights(options):
        bits, is_float = weights.get("num_bits"), weights.get("type") == "float"
        known = (4, 8) if is_float else PACKED_BITS
        if bits not in known:
            return f"num_bits {bits!r:.40}; expected one of {', '.join(map(str, known))}"
        block = weights.get("block_structure")
        if isinstance(block, list) and not all(is_whole(one, 1, 2**31) for one in block):
            return f"block_structure {str(block)[:40]}; expected two numbers"
    return ""


def dequantize_compressed_tensors(weight: QuantizedWeight) -> DequantizedTensor:
    """The weight of floats, read along its outputs."""
    if "_packed" not in weight.parts:
        return _dequantize_plain(weight)
    if weight.get("_packed", "I32", "U8").dtype == "U8":
        return _dequantize_float4(weight)
    return _dequantize_words(weight)


def _list_groups(options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    groups = options.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict):
            yield group


def _list_weights(options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What each group of modules says of its weights."""
    for group in _list_groups(options):
        if isinstance(weights := group.get("weights"), dict):
            yield weights


def _dequantize_plain(weight: QuantizedWeight) -> DequantizedTensor:
    """8 bits, one number for each weight."""
    codes = weight.get("", *FP8_DTYPES, "I8", axes=2)
    scales = _make_scales(weight, codes.shape)
    zeros = _make_zeros(weight, codes.shape)

    def read(first: int, stop: int) -> np.ndarray:
        return (to_float32(codes[first:stop, :]) - zeros(first, stop)) * scales(first, stop)

    return weight.make(codes.shape, read)


def _dequantize_words(weight: QuantizedWeight) -> DequantizedTensor:
    """Whole numbers in 32-bit words, along the inputs, stored with half their range added."""
    packed = weight.get("_packed", "I32", axes=2)
    weight.get("_shape", "I64", "I32", axes=1)
    weight.check_shape("_shape", (2,))
    shape = tuple(int(size) for size in read_whole(weight.parts["_shape"]))
    bits = _find_bits(weight, shape)
    scales = _make_scales(weight, shape)
    zeros = _make_zeros(weight, shape, bits)
    offset = np.float32(2 ** (bits - 1))

    def read(first: int, stop: int) -> np.ndarray:
        numbers = unpack(packed[first:stop, :], bits, shape[1]).astype(np.float32) - offset
        return (numbers - zeros(first, stop)) * scales(first, stop)

    return weight.make(shape, read)


def _find_bits(weight: QuantizedWeight, shape: Shape) -> int:
    """Of the numbers of bits that the config names, the one that fits the words."""
    named = {one.get("num_bits") for one in _list_weights(weight.options)}
    packed = weight.parts["_packed"].shape
    for bits in PACKED_BITS:
        if bits in named and packed == (shape[0], divide_up(shape[1], 32 // bits)):
            return bits
    raise DamagedWeightError(
        f"{weight.name}: weight_packed is {list(packed)} for a weight of {list(shape)}"
    )


def _dequantize_float4(weight: QuantizedWeight) -> DequantizedTensor:
    """4-bit floats: NVIDIA's groups of 16 with 8-bit floats as scales, or MXFP4's of 32."""
    packed = weight.get("_packed", "U8", axes=2)
    scale = weight.get("_scale", "F8_E4M3", "U8", "F8_E8M0", axes=2)
    is_mx = scale.dtype != "F8_E4M3"
    has_divisor = "_global_scale" in weight.parts
    divisor = read_number(weight, "_global_scale") if has_divisor else np.float32(1)

    def read_scales(first: int, stop: int) -> np.ndarray:
        found = scale[first:stop, :]
        scales = to_exponent_scales(found.view(np.uint8)) if is_mx else to_float32(found)
        return scales / divisor

    return dequantize_fp4(weight, packed, 32 if is_mx else 16, read_scales)


def _make_scales(weight: QuantizedWeight, shape: Shape) -> ReadRows:
    scale = weight.get("_scale", *SCALES)
    blocks = [one.get("block_structure") for one in _list_weights(weight.options)]
    block = next((tuple(one) for one in blocks if isinstance(one, list) and len(one) == 2), None)
    has_blocks = block is not None and len(scale.shape) == 2 and scale.shape[0] != shape[0]
    return make_scales(
        weight,
        "_scale",
        shape,
        block=block if has_blocks else None,
        groups=_read_groups(weight, shape),
    )


def _make_zeros(weight: QuantizedWeight, shape: Shape, bits: int = 0) -> ReadRows:
    """What is subtracted, in a form that goes with [O, I]."""
    if "_zero_point" not in weight.parts:
        return lambda first, stop: np.zeros((1, 1), np.float32)
    zeros, groups = weight.get("_zero_point", *DTYPES), weight.parts["_scale"].shape
    if not bits or zeros.dtype != "I32":
        return make_scales(weight, "_zero_point", shape, groups=_read_groups(weight, shape))
    # packed along the outputs
    columns = groups[1] if len(groups) == 2 else 1
    weight.check_shape("_zero_point", (divide_up(shape[0], 32 // bits), columns))
    of_input = _read_groups(weight, shape)
    if of_input is None:
        of_input = np.arange(shape[1]) // divide_up(shape[1], columns)
    offset = np.float32(2 ** (bits - 1))

    def read(first: int, stop: int) -> np.ndarray:
        per_word = 32 // bits
        begin, end = first // per_word, divide_up(stop, per_word)
        numbers = unpack(zeros[begin:end, :].T, bits, (end - begin) * per_word).T
        own = numbers[first - begin * per_word : stop - begin * per_word]
        return own.astype(np.float32)[:, of_input] - offset

    return read


def _read_groups(weight: QuantizedWeight, shape: Shape) -> np.ndarray | None:
    """[I], the group of each input, where inputs were ordered by their activations."""
    if "_g_idx" not in weight.parts:
        return None
    weight.get("_g_idx", "I32", "I64", axes=1)
    weight.check_shape("_g_idx", shape[1:])
    found = read_whole(weight.parts["_g_idx"])
    groups = max(weight.parts["_scale"].shape[1:], default=1)
    if found.size and found.min() < 0:  # -1 everywhere: in order after all
        return None
    if found.size and found.max() >= groups:
        raise DamagedWeightError(f"{weight.name}: g_idx names more than {groups} groups")
    return found
