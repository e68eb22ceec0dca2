"""Quantised weights of every format, part by part, against the libraries that write them."""

import json
import tracemalloc
from contextlib import ExitStack

import numpy as np
import pytest
from quantized_files import NAME, check, floats, integers, open_weight, pack

from adapt_jax.decoders.layout import TensorLayout
from adapt_jax.pretrained.streaming import ParameterSource, Reader

torch = pytest.importorskip("torch")


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
