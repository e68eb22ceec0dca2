"""Files of quantised weights, and the check of a weight against its floats."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_llama import write_tiny_llama

from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.quantized import Quantization, dequantize_tensors
from adapt_jax.pretrained.safetensors_io import read_header

torch = pytest.importorskip("torch")


NAME = "model.layers.0.mlp.up_proj."


def open_weight(
    folder: Path, parts: dict[str, Any], method: str, stack: ExitStack, **options: Any
) -> DequantizedTensor:
    """The one weight of a file with these tensors."""
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    save_file({name: part.clone().contiguous() for name, part in parts.items()}, file)
    opened = stack.enter_context(file.open("rb", buffering=0))
    tensors = read_header(file, opened.fileno())
    found, problems = dequantize_tensors(Quantization(method, options, "BF16"), tensors)
    assert not problems, problems
    [weight] = found.values()
    assert isinstance(weight, DequantizedTensor)
    return weight


def check(weight: DequantizedTensor, expected: Any, seed: int = 0) -> None:
    """The whole and a dozen random parts are bitwise those of the reference."""
    reference = expected.float().numpy() if hasattr(expected, "numpy") else expected
    assert weight.shape == reference.shape
    whole = tuple(slice(0, size) for size in reference.shape)
    dtype = expected.dtype if hasattr(expected, "numpy") else torch.float32
    rounded = torch.tensor(weight[whole]).to(dtype).float().numpy()
    np.testing.assert_array_equal(rounded, reference)
    draws = np.random.default_rng(seed)
    for _ in range(12):
        part = tuple(
            slice(*sorted(draws.choice(size + 1, 2, replace=False))) for size in weight.shape
        )
        np.testing.assert_array_equal(weight[part], weight[whole][part])


def floats(*shape: int, seed: int = 0) -> Any:
    return torch.tensor(np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32))


def integers(low: int, high: int, *shape: int, dtype: Any = None, seed: int = 0) -> Any:
    drawn = np.random.default_rng(seed).integers(low, high, shape, dtype=np.int64)
    return torch.tensor(drawn).to(dtype or torch.int32)


def pack(numbers: np.ndarray, bits: int) -> Any:
    """[..., n] numbers in words of 32 bits, the lowest bits first."""
    per_word = 32 // bits
    by_word = numbers.reshape(*numbers.shape[:-1], -1, per_word).astype(np.uint64)
    words = sum(by_word[..., n] << np.uint64(bits * n) for n in range(per_word))
    return torch.tensor(np.asarray(words, np.uint64).astype(np.uint32).view(np.int32))


def write_fp8_llama(folder: Path) -> tuple[Path, Path]:
    """A tiny Llama with FP8 projections, and the same one in floats."""
    from safetensors.torch import load_file, save_file

    plain, quantized = write_tiny_llama(folder / "plain"), write_tiny_llama(folder / "fp8")
    state, floats = load_file(plain / "model.safetensors"), {}
    stored = {}
    for name, tensor in state.items():
        if "proj" in name:
            codes, scale = tensor.to(torch.float8_e4m3fn), torch.full((1, 1), 0.5)
            stored |= {name: codes, name + "_scale_inv": scale}
            floats[name] = codes.float() * 0.5
        else:
            stored[name] = tensor.bfloat16()
            floats[name] = stored[name].float()
    save_file(stored, quantized / "model.safetensors", metadata={"format": "pt"})
    save_file(floats, plain / "model.safetensors", metadata={"format": "pt"})
    hf = json.loads((quantized / "config.json").read_text())
    hf["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    hf["torch_dtype"] = "bfloat16"
    (quantized / "config.json").write_text(json.dumps(hf))
    return plain, quantized
