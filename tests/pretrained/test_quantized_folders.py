"""Folders with quantised weights: their decoders, and the lines that refuse them."""

import json
import re
from contextlib import ExitStack

import numpy as np
import pytest
from peft_cases import updates
from quantized_files import NAME, integers, open_weight, write_fp8_llama
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.inspection.checkpoint import read_checkpoint
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft.folder import read_adapter
from adapt_jax.pretrained.peft.writing import write_lora, write_soft_prompt
from adapt_jax.pretrained.safetensors_io import read_header
from adapt_jax.pretrained.saving import read_source_dtype, save_pretrained
from adapt_jax.utils.errors import UserError

torch = pytest.importorskip("torch")


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


@pytest.mark.parametrize("kind", ["soft prompt", "dora"])
def test_an_adapter_names_the_quantised_decoder(kind, tmp_path):
    _, quantized = write_fp8_llama(tmp_path)
    model = load_pretrained(quantized)
    if kind == "soft prompt":
        write_soft_prompt(tmp_path / "adapter", SoftPrompt(np.zeros((3, 32), np.float32)), model)
    else:  # its norms are those of the de-quantised kernels, as in PEFT
        factors = {
            path: LoRAFactors(one.a, one.b, one.alpha, np.full(len(one.b), 2, np.float32))
            for path, one in updates(model, "query", "up").factors.items()
        }
        made = LoRAWeights(factors, model.fingerprint)
        merged = made.merge_into(model)
        norms = np.linalg.norm(merged.decoder.layers[0].ffn.up.kernel[...], axis=1)
        np.testing.assert_allclose(norms, 2, rtol=1e-6)
        write_lora(tmp_path / "adapter", made, merged)
        again = read_adapter(tmp_path / "adapter", model).lora_weights
        assert again.merge_into(model).fingerprint == merged.fingerprint
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
