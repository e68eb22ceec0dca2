"""Weights that compressed-tensors stores, against what it makes of them."""

from contextlib import ExitStack

import pytest
from quantized_files import NAME, check, floats, open_weight

torch = pytest.importorskip("torch")


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
