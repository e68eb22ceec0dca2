"""Quantised weights of every format, part by part, against the libraries that write them."""

import json
import re
import tracemalloc
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.layout import TensorLayout
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.inspection.checkpoint import read_checkpoint
from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.pretrained.peft_writing import write_soft_prompt
from adapt_jax.pretrained.quantized import Quantization, dequantize_tensors
from adapt_jax.pretrained.safetensors_io import read_header
from adapt_jax.pretrained.saving import read_source_dtype, save_pretrained
from adapt_jax.pretrained.streaming import ParameterSource, Reader
from adapt_jax.utils.errors import UserError

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


@pytest.mark.parametrize("name", ["weight_scale_inv", "weight_scale"])
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_with_one_scale_or_one_for_each_row(tmp_path, name, kind):
    codes = floats(37, 21).to(getattr(torch, kind))
    for scale in (torch.tensor(0.3), torch.tensor([0.7]), floats(37, 1).abs()):
        with ExitStack() as stack:
            parts = {NAME + "weight": codes, NAME + name: scale, NAME + "input_scale": scale}
            weight = open_weight(tmp_path, parts, "fp8", stack, weight_block_size=None)
            check(weight, codes.float() * scale)


@pytest.mark.parametrize(("shape", "block"), [((300, 140), (128, 128)), ((37, 21), (8, 5))])
def test_fp8_with_a_scale_for_each_block(tmp_path, shape, block):
    codes = floats(*shape).to(torch.float8_e4m3fn)
    blocks = [-(-size // step) for size, step in zip(shape, block, strict=True)]
    scales = floats(*blocks, seed=1).abs()
    expected = codes.float()
    for row in range(blocks[0]):
        for column in range(blocks[1]):
            here = [
                slice(at * step, (at + 1) * step)
                for at, step in zip((row, column), block, strict=True)
            ]
            expected[here[0], here[1]] *= scales[row, column]
    parts = {NAME + "weight": codes, NAME + "weight_scale_inv": scales}
    with ExitStack() as stack:
        weight = open_weight(tmp_path, parts, "fp8", stack, weight_block_size=list(block))
        check(weight, expected)
        experts = {
            "gate_up_proj": torch.stack([codes, codes]),
            "gate_up_proj_scale_inv": torch.stack([scales, 2 * scales]),
        }
        stacked = open_weight(tmp_path, experts, "fp8", stack, weight_block_size=list(block))
        check(stacked, torch.stack([expected, 2 * expected]))


def test_mxfp4_is_what_transformers_makes_of_it(tmp_path):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = integers(0, 256, 3, 10, 2, 16, dtype=torch.uint8)
    scales = integers(120, 130, 3, 10, 2, dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    parts = {"experts.down_proj_blocks": blocks, "experts.down_proj_scales": scales}
    with ExitStack() as stack:
        check(open_weight(tmp_path, parts, "mxfp4", stack), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("ordered", [True, False])
def test_gptq(tmp_path, bits, version, ordered):
    inputs, outputs, size = 96, 48, 32
    draws = np.random.default_rng(bits)
    numbers = draws.integers(0, 2**bits, (inputs, outputs))
    zeros = draws.integers(1, 2**bits, (inputs // size, outputs))
    scales = floats(inputs // size, outputs).half()
    groups = np.arange(inputs) // size
    if not ordered:
        groups = draws.permutation(groups)
    expected = (numbers - zeros[groups]) * scales.float().numpy()[groups]
    stored = zeros - 1 if version == "gptq" else zeros
    parts = {
        NAME + "qweight": pack(numbers.T, bits).T,
        NAME + "qzeros": pack(stored, bits),
        NAME + "scales": scales,
        NAME + "g_idx": torch.tensor(groups.astype(np.int32)),
    }
    options = {"bits": bits, "group_size": size, "checkpoint_format": version}
    with ExitStack() as stack:
        check(open_weight(tmp_path, parts, "gptq", stack, **options), expected.T.astype(np.float32))
        if ordered:
            del parts[NAME + "g_idx"]
            weight = open_weight(tmp_path, parts, "gptq", stack, **options)
            check(weight, expected.T.astype(np.float32))


def test_awq(tmp_path):
    inputs, outputs, size = 60, 40, 20
    draws = np.random.default_rng(0)
    numbers, zeros = draws.integers(0, 16, (inputs, outputs)), draws.integers(0, 16, (3, outputs))
    scales = floats(3, outputs).half()
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def reorder(array: np.ndarray) -> np.ndarray:
        return array.reshape(len(array), -1, 8)[..., order].reshape(array.shape)

    groups = np.arange(inputs) // size
    expected = (numbers - zeros[groups]) * scales.float().numpy()[groups]
    parts = {
        NAME + "qweight": pack(reorder(numbers), 4),
        NAME + "qzeros": pack(reorder(zeros), 4),
        NAME + "scales": scales,
    }
    with ExitStack() as stack:
        weight = open_weight(tmp_path, parts, "awq", stack, bits=4, version="gemm")
        check(weight, expected.T.astype(np.float32))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(37, 21), (48, 64), (300, 64)])
def test_bitsandbytes_4_bits(tmp_path, kind, nested, shape):
    """In closed form: a value for each code, times the scale of its block."""
    count = shape[0] * shape[1]
    blocks = -(-count // 64)
    codes = integers(0, 256, -(-count // 2), 1, dtype=torch.uint8)
    values, absmax = floats(16), floats(blocks, seed=1).abs()
    state = {"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": list(shape)}
    parts = {"weight": codes, "weight.quant_map": values}
    if nested:
        outer, table = floats(-(-blocks // 256), seed=2).abs(), floats(256, seed=3)
        small = integers(0, 256, blocks, dtype=torch.uint8, seed=4)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}
        parts |= {"weight.nested_absmax": outer, "weight.nested_quant_map": table}
        absmax = table[small.long()] * outer.repeat_interleave(256)[:blocks] + 0.25
        parts["weight.absmax"] = small
    else:
        parts["weight.absmax"] = absmax
    text = json.dumps(state).encode()
    parts[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text), dtype=torch.uint8)
    numbers = torch.stack([codes >> 4, codes & 15], dim=-1).reshape(-1)[:count]
    expected = values[numbers.long()] * absmax.repeat_interleave(64)[:count]
    with ExitStack() as stack:
        named = {NAME + name: part for name, part in parts.items()}
        weight = open_weight(tmp_path, named, "bitsandbytes", stack, load_in_4bit=True)
        check(weight, expected.reshape(shape))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(37, 21), (48, 64)])
def test_bitsandbytes_reads_the_same_4_bits(tmp_path, kind, nested, shape):
    library = pytest.importorskip("bitsandbytes.functional")
    codes, state = library.quantize_4bit(
        floats(*shape), blocksize=64, compress_statistics=nested, quant_type=kind
    )
    parts = {NAME + "weight": codes}
    parts |= {NAME + "weight." + name: part for name, part in state.as_dict(packed=True).items()}
    expected = library.dequantize_4bit(codes, state)
    with ExitStack() as stack:
        weight = open_weight(tmp_path, parts, "bitsandbytes", stack, load_in_4bit=True)
        whole = weight[:, :]
        np.testing.assert_allclose(whole, expected.numpy(), rtol=1e-6, atol=1e-7)
        check(weight, whole)


def test_modelopt_nvfp4(tmp_path):
    codes = integers(0, 256, 37, 24, dtype=torch.uint8)
    scales, outer = floats(37, 3).abs().to(torch.float8_e4m3fn), torch.tensor(0.25)
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    table = torch.tensor([*values, *(-value for value in values)])
    numbers = table[torch.stack([codes & 15, codes >> 4], dim=-1).long()].reshape(37, 48)
    expected = numbers * (scales.float() * outer).repeat_interleave(16, dim=1)
    parts = {NAME + "weight": codes, NAME + "weight_scale": scales, NAME + "input_scale": outer}
    parts[NAME + "weight_scale_2"] = outer
    with ExitStack() as stack:
        check(open_weight(tmp_path, parts, "modelopt", stack, quant_algo="NVFP4"), expected)


def test_bitsandbytes_8_bits(tmp_path):
    codes, largest = integers(-127, 128, 37, 21, dtype=torch.int8), floats(37).abs()
    expected = codes.float() * (largest / 127)[:, None]
    parts = {NAME + "weight": codes, NAME + "SCB": largest}
    parts[NAME + "weight_format"] = torch.tensor(0, dtype=torch.uint8)
    with ExitStack() as stack:
        check(open_weight(tmp_path, parts, "bitsandbytes", stack, load_in_8bit=True), expected)


GROUP, CHANNEL, TENSOR = (
    {"strategy": "group", "group_size": 16},
    {"strategy": "channel"},
    {"strategy": "tensor"},
)
COMPRESSED = {
    "pack-quantized 4 bits": ("pack-quantized", {"num_bits": 4, **GROUP}),
    "pack-quantized with zeros": ("pack-quantized", {"num_bits": 4, "symmetric": False, **GROUP}),
    "pack-quantized by channel": ("pack-quantized", {"num_bits": 8, **CHANNEL}),
    "int-quantized": ("int-quantized", {"num_bits": 8, **CHANNEL}),
    "int-quantized with zeros": ("int-quantized", {"num_bits": 8, "symmetric": False, **CHANNEL}),
    "float-quantized": ("float-quantized", {"num_bits": 8, "type": "float", **CHANNEL}),
    "float-quantized by tensor": ("float-quantized", {"num_bits": 8, "type": "float", **TENSOR}),
    "float-quantized by block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [8, 16]},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {
            "num_bits": 4,
            "type": "float",
            "strategy": "tensor_group",
            "group_size": 16,
            "scale_dtype": "float8_e4m3fn",
        },
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {
            "num_bits": 4,
            "type": "float",
            "strategy": "group",
            "group_size": 32,
            "scale_dtype": "uint8",
        },
    ),
}


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compressed_tensors(tmp_path, name, dtype):
    """Numbers that the library compresses are those that it decompresses."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    kind, said = COMPRESSED[name]
    args = QuantizationArgs(**said)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=kind)
    rows, columns = (40, 64) if "fp4" in name or "block" in name else (37, 48)
    original = floats(rows, columns).to(getattr(torch, dtype))
    strategy = said["strategy"]
    if strategy == "block":
        height, width = said["block_structure"]
        by_group = original.reshape(rows // height, height, -1, width).transpose(1, 2).flatten(2)
    elif "group_size" in said:
        by_group = original.reshape(rows, -1, said["group_size"])
    else:
        by_group = original[:, None] if strategy == "channel" else original.reshape(1, 1, -1)
    state = {"weight": original}
    more = {}
    if name == "nvfp4":
        more["global_scale"] = state["weight_global_scale"] = torch.tensor(
            [448 * 6 / original.abs().max().float()]
        )
    scale, zero = calculate_qparams(by_group.amin(-1), by_group.amax(-1), args, **more)
    if strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    state |= {"weight_scale": scale, "weight_zero_point": zero}
    if said.get("symmetric", True):
        state.pop("weight_zero_point")
    compressor = BaseCompressor.get_value_from_registry(kind)
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(stored, scheme)["weight"]
    parts = {NAME + part: tensor for part, tensor in stored.items()}
    options = {
        "format": kind,
        "config_groups": {"group_0": {"weights": args.model_dump(mode="json")}},
    }
    with ExitStack() as stack:
        weight = open_weight(tmp_path, parts, "compressed-tensors", stack, **options)
        check(weight, expected)


def test_reading_takes_less_memory_than_the_weight(tmp_path):
    """Beyond the floats that are read, no more than as much again; strips of all threads count."""
    rows, columns = 4096, 2048
    zeros = torch.zeros
    gptq = {
        NAME + "qweight": zeros(columns // 8, rows, dtype=torch.int32),
        NAME + "qzeros": zeros(columns // 128, rows // 8, dtype=torch.int32),
        NAME + "scales": zeros(columns // 128, rows).half(),
    }
    fp8 = {
        NAME + "weight": zeros(rows, columns).to(torch.float8_e4m3fn),
        NAME + "weight_scale_inv": zeros(rows // 128, columns // 128),
    }
    for method, parts in (("gptq", gptq), ("fp8", fp8)):
        with ExitStack() as stack, Reader() as reader:
            weight = open_weight(tmp_path, parts, method, stack, bits=4, group_size=128)
            path = ("kernel",)
            layout = TensorLayout(("kernel",), False, (path,))
            source = ParameterSource(layout, path, {path: (rows, columns)}, {"kernel": weight})
            target = np.empty((rows, columns), np.float32)
            tracemalloc.start()
            for share in reader.start(source, (slice(0, rows), slice(0, columns)), target):
                share.result()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < target.nbytes
            assert not target.any()


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


def test_a_quantised_folder_is_the_decoder_of_its_floats(tmp_path, caplog):
    plain, quantized = write_fp8_llama(tmp_path)
    model = load_pretrained(quantized)
    assert model.fingerprint == load_pretrained(plain).fingerprint
    [line] = [one.message for one in caplog.records if "de-quantised" in one.message]
    assert "(fp8)" in line and "MiB as float32 in memory" in line
    assert read_source_dtype(quantized) == "bfloat16"
    # saved again, it is a decoder of floats
    save_pretrained(model, tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
    assert load_pretrained(tmp_path / "saved").fingerprint == model.fingerprint
    found = read_checkpoint(quantized)
    assert (found.quantization, found.dtype) == ("fp8", "bfloat16")


def test_an_index_of_quantised_tensors_is_that_of_the_decoder(tmp_path):
    """Where weights are not there, inspection reads the index."""
    _, quantized = write_fp8_llama(tmp_path)
    with (quantized / "model.safetensors").open("rb") as opened:
        names = list(read_header(quantized / "model.safetensors", opened.fileno()))
    index = {"metadata": {"total_size": 1000}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    (quantized / "model.safetensors").unlink()
    (quantized / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_checkpoint(quantized)
    assert (found.quantization, found.nbytes, found.missing) == ("fp8", 1000, ("a.safetensors",))


def test_an_adapter_names_the_quantised_decoder(tmp_path):
    _, quantized = write_fp8_llama(tmp_path)
    model = load_pretrained(quantized)
    write_soft_prompt(tmp_path / "adapter", SoftPrompt(np.zeros((3, 32), np.float32)), model)
    said = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(quantized.resolve())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quant_method": "aqlm"}, "quantised (aqlm); expected one of fp8"),
        ({"quant_method": "gptqq"}, "did you mean 'gptq'?"),
        ({"quant_method": "gptq", "bits": 3}, "bits 3; expected one of 2, 4, 8"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "all"}, "group_size 'all'; expected"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version 'gemv'; expected 'gemm'"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "int4"}, "'int4'; expected nf4"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format 'marlin-24'"),
        (
            {"quant_method": "compressed-tensors"}
            | {"config_groups": {"a": {"weights": {"num_bits": 8, "block_structure": [0, 128]}}}},
            "block_structure [0, 128]; expected two numbers",
        ),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo 'W4A8_AWQ'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, options, said):
    folder = write_tiny_llama(tmp_path)
    hf = json.loads((folder / "config.json").read_text()) | {"quantization_config": options}
    (folder / "config.json").write_text(json.dumps(hf))
    with pytest.raises(UserError, match=re.escape(said)):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_scale_inv": None}, "up_proj.weight is F8_E4M3, expected one of"),
        ({"_scale_inv": (3, 3)}, "_scale_inv is [3, 3], expected [1, 1]"),
        ({"": (4, 4)}, "up_proj.weight is [4, 4], config.json says"),
    ],
)
def test_parts_that_do_not_go_together_are_one_line(tmp_path, change, said):
    from safetensors.torch import load_file, save_file

    _, folder = write_fp8_llama(tmp_path)
    state = load_file(folder / "model.safetensors")
    for end, shape in change.items():
        name = "model.layers.1.mlp.up_proj.weight" + end
        old = state.pop(name)
        if shape is not None:
            state[name] = torch.zeros(shape).to(old.dtype)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_pretrained(folder)
    assert len(str(caught.value)) < 600


WORDS, CODES = torch.zeros((4, 2), dtype=torch.int32), torch.zeros((4, 12), dtype=torch.uint8)
INT4 = {"config_groups": {"a": {"weights": {"num_bits": 4}}}}
PACKED = {
    "weight_packed": WORDS,
    "weight_shape": torch.tensor([4, 16]),
    "weight_scale": torch.ones((4, 2)),
}


@pytest.mark.parametrize(
    ("method", "options", "parts", "said"),
    [
        (
            "awq",
            {},
            {"qweight": WORDS, "qzeros": WORDS[:0], "scales": torch.ones((0, 16))},
            "0 groups for 4 inputs",
        ),
        ("compressed-tensors", INT4, {"weight_shape": torch.tensor([4])}, "expected [2]"),
        ("compressed-tensors", INT4, {"weight_scale": torch.ones((4, 0))}, "[4, 0] for a weight"),
        (
            "compressed-tensors",
            INT4,
            {"weight_g_idx": torch.zeros(1, dtype=torch.int32)},
            "_g_idx is [1], expected [16]",
        ),
        (
            "compressed-tensors",
            INT4,
            {"weight_scale": torch.ones(()), "weight_g_idx": torch.ones(16, dtype=torch.int32)},
            "g_idx names more than 1 groups",
        ),
        (
            "compressed-tensors",
            INT4,
            {
                "weight_scale": torch.ones((4, 4)),
                "weight_g_idx": torch.full((16,), 3, dtype=torch.int32),
                "weight_zero_point": torch.zeros((4, 2), dtype=torch.int8),
            },
            "_zero_point has only 2 groups",
        ),
        (
            "compressed-tensors",
            {},
            {
                "weight_packed": CODES[:, :8],
                "weight_scale": torch.ones((4, 1)).to(torch.float8_e4m3fn),
                "weight_global_scale": torch.ones(0),
            },
            "_global_scale is [0], expected one number",
        ),
        (
            "modelopt",
            {},
            {
                "weight": CODES,
                "weight_scale": torch.ones((4, 1)).to(torch.float8_e4m3fn),
                "weight_scale_2": torch.ones(()),
            },
            "24 inputs in groups of 16",
        ),
    ],
)
def test_shapes_that_cannot_be_read_are_named_before_reading(
    tmp_path, method, options, parts, said
):
    whole = PACKED | parts if options else parts
    with ExitStack() as stack, pytest.raises(AssertionError) as caught:
        open_weight(
            tmp_path, {NAME + end: part for end, part in whole.items()}, method, stack, **options
        )
    assert said in str(caught.value)


def test_gpt_oss_with_mxfp4_experts_is_the_decoder_of_its_floats(tmp_path):
    from family_models import make
    from safetensors.torch import load_file, save_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    plain, quantized = tmp_path / "plain", tmp_path / "mxfp4"
    for folder in (plain, quantized):
        make(folder, "gpt_oss", intermediate_size=64)
    floats = load_file(plain / "model.safetensors")
    stored = dict(floats)
    for name in [one for one in floats if one.endswith(("gate_up_proj", "down_proj"))]:
        count, inputs, outputs = stored.pop(name).shape
        blocks = integers(0, 256, count, outputs, inputs // 32, 16, dtype=torch.uint8)
        scales = integers(120, 126, count, outputs, inputs // 32, dtype=torch.uint8)
        stored |= {name + "_blocks": blocks, name + "_scales": scales}
        floats[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
    save_file(floats, plain / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, quantized / "model.safetensors", metadata={"format": "pt"})
    hf = json.loads((quantized / "config.json").read_text())
    hf["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (quantized / "config.json").write_text(json.dumps(hf))
    assert load_pretrained(quantized).fingerprint == load_pretrained(plain).fingerprint
