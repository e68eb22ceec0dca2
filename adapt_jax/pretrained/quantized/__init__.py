"""Quantised checkpoints: weights become floats as they are read, a strip at a time.

One file for each format. ``QUANTIZATIONS`` says how a weight is found among the tensors of a
checkpoint, and which function gives it as floats.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor, Tensor
from adapt_jax.pretrained.quantized.awq import check_awq, dequantize_awq
from adapt_jax.pretrained.quantized.bitsandbytes import (
    STATE,
    check_bitsandbytes,
    dequantize_bitsandbytes,
)
from adapt_jax.pretrained.quantized.compressed_tensors import (
    check_compressed_tensors,
    dequantize_compressed_tensors,
)
from adapt_jax.pretrained.quantized.fp8 import check_fp8, dequantize_fp8
from adapt_jax.pretrained.quantized.gptq import check_gptq, dequantize_gptq
from adapt_jax.pretrained.quantized.modelopt import check_modelopt, dequantize_modelopt
from adapt_jax.pretrained.quantized.mxfp4 import dequantize_mxfp4
from adapt_jax.pretrained.quantized.weight import DamagedWeightError, QuantizedWeight
from adapt_jax.pretrained.safetensors_io import FileTensor
from adapt_jax.utils.errors import nearest

__all__ = [
    "QUANTIZATIONS",
    "Quantization",
    "dequantize_tensors",
    "find_quantization",
    "list_float_names",
]

KEYS = ("quantization_config", "compression_config")
DEFAULT_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Format:
    """A format of quantised weights. All names are ends of the names of tensors.

    Attributes:
        codes: of the part with the numbers, any of these.
        marks: a weight is quantised where one of these is beside the numbers.
        others: its other parts.
        weight: what the weight is called in a checkpoint of floats.
        dequantize: makes the weight; the parts are named by their ends.
        check: says why the options are not supported; an empty string if they are.
        ignored: tensors that are not needed, such as scales of activations.
    """

    codes: tuple[str, ...]
    marks: tuple[str, ...]
    others: tuple[str, ...]
    weight: str
    dequantize: Callable[[QuantizedWeight], DequantizedTensor]
    check: Callable[[Mapping[str, Any]], str] = lambda options: ""
    ignored: tuple[str, ...] = ()


ACTIVATIONS = (
    *(".input_scale", ".activation_scale", ".input_zero_point", ".input_global_scale"),
    *(".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale"),
)
FP8 = Format(
    codes=("",),
    marks=("_scale_inv", "_scale"),
    others=(),
    weight="",
    dequantize=dequantize_fp8,
    check=check_fp8,
    ignored=ACTIVATIONS,
)
QUANTIZATIONS: Mapping[str, Format] = {
    "fp8": FP8,
    "fbgemm_fp8": FP8,
    "compressed-tensors": Format(
        codes=("_packed", ""),
        marks=("_scale",),
        others=("_shape", "_zero_point", "_g_idx", "_global_scale"),
        weight="",
        dequantize=dequantize_compressed_tensors,
        check=check_compressed_tensors,
        ignored=ACTIVATIONS,
    ),
    "modelopt": Format(
        codes=("",),
        marks=("_scale",),
        others=("_scale_2",),
        weight="",
        dequantize=dequantize_modelopt,
        check=check_modelopt,
        ignored=ACTIVATIONS,
    ),
    "mxfp4": Format(
        codes=("_blocks",),
        marks=("_scales",),
        others=(),
        weight="",
        dequantize=dequantize_mxfp4,
    ),
    "gptq": Format(
        codes=("qweight",),
        marks=("qweight",),
        others=("qzeros", "scales", "g_idx"),
        weight="weight",
        dequantize=dequantize_gptq,
        check=check_gptq,
    ),
    "awq": Format(
        codes=("qweight",),
        marks=("qweight",),
        others=("qzeros", "scales"),
        weight="weight",
        dequantize=dequantize_awq,
        check=check_awq,
    ),
    "bitsandbytes": Format(
        codes=("weight",),
        marks=("weight.absmax", "SCB"),
        others=(
            *("weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map"),
            *(STATE + "nf4", STATE + "fp4", "weight_format"),
        ),
        weight="weight",
        dequantize=dequantize_bitsandbytes,
        check=check_bitsandbytes,
    ),
}


@dataclass(frozen=True)
class Quantization:
    """How ``config.json`` says that weights are quantised.

    Attributes:
        method: one of QUANTIZATIONS, or a name that is not read.
        options: the whole entry of ``config.json``.
        default_dtype: the dtype of the floats that the checkpoint was made of, BF16 by default.
    """

    method: str
    options: Mapping[str, Any]
    default_dtype: str

    def describe(self) -> str:
        """Its name, and the bits where it says how many."""
        bits = self.options.get("bits", self.options.get("w_bit"))
        if self.options.get("load_in_4bit") or self.options.get("load_in_8bit"):
            bits = 4 if self.options.get("load_in_4bit") else 8
        if isinstance(kind := self.options.get("format"), str) and self.method != "gptq":
            return f"{self.method}, {kind[:40]}"
        return f"{self.method}, {bits} bits" if isinstance(bits, int) else self.method

    def find_problem(self) -> str:
        """Why it cannot be read; empty: it can."""
        if self.method not in QUANTIZATIONS:
            expected = ", ".join(QUANTIZATIONS)
            hint = nearest(self.method, QUANTIZATIONS)
            return (
                f"its weights are quantised ({self.method}); expected one of {expected}{hint}, or "
                "full-precision weights"
            )
        if problem := QUANTIZATIONS[self.method].check(self.options):
            return f"its weights are quantised ({self.method}): {problem}"
        return ""


def find_quantization(hf: Mapping[str, Any]) -> Quantization | None:
    """What a ``config.json`` says of quantisation; None: weights are floats."""
    text = hf.get("text_config")
    texts = (hf, text if isinstance(text, dict) else {})
    for config in texts:
        for key in KEYS:
            options = config.get(key)
            if not options:
                continue
            if not isinstance(options, dict):
                return Quantization(key, {}, "BF16")
            method = str(options.get("quant_method") or options.get("quant_algo") or key)[:80]
            dtypes = (one.get("dtype") or one.get("torch_dtype") for one in texts)
            dtype = next((str(one) for one in dtypes if one), "")
            return Quantization(
                method, options, DEFAULT_DTYPES.get(dtype.removeprefix("torch."), "BF16")
            )
    return None


def dequantize_tensors(
    quantization: Quantization, tensors: Mapping[str, FileTensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with every quantised weight as one of floats; and all that is wrong.

    Nothing is read but scales of scales and lists of groups.
    """
    scheme = QUANTIZATIONS[quantization.method]
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(scheme.ignored)}
    found: dict[str, Tensor] = dict(kept)
    problems = list[str]()
    for base in _find_bases(scheme, kept):
        ends = dict.fromkeys((*scheme.codes, *scheme.marks, *scheme.others))
        parts = {end: kept[base + end] for end in ends if base + end in kept}
        for end in parts:
            found.pop(base + end)
        name = base + scheme.weight
        weight = QuantizedWeight(name, parts, quantization.options, quantization.default_dtype)
        try:
            found[name] = scheme.dequantize(weight)
        except DamagedWeightError as damage:
            problems.append(str(damage))
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error})")
    return found, problems


def list_float_names(quantization: Quantization, names: Collection[str]) -> set[str]:
    """The names that the tensors of these names have once they are floats."""
    scheme = QUANTIZATIONS[quantization.method]
    kept = {name for name in names if not name.endswith(scheme.ignored)}
    ends = (*scheme.codes, *scheme.marks, *scheme.others)
    for base in _find_bases(scheme, kept):
        kept -= {base + end for end in ends}
        kept.add(base + scheme.weight)
    return kept


def _find_bases(scheme: Format, tensors: Collection[str]) -> list[str]:
    """What the names of the parts of each quantised weight begin with."""
    bases = dict[str, None]()
    for name in tensors:
        for mark in scheme.marks:
            base = name.removesuffix(mark)
            if base != name and any(base + code in tensors for code in scheme.codes):
                bases[base] = None
    return list(bases)
