"""GGUF files hold the decoders that they were written from."""

import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_fields import FULL, SLIDING, YARN
from family_models import make
from gguf_files import write_gguf  # noqa: E402  (needs the package)
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.recipe import _name_decoder
from adapt_jax.inspection.checkpoint import read_checkpoint
from adapt_jax.pretrained.gguf import architectures
from adapt_jax.pretrained.gguf import file as gguf_file
from adapt_jax.pretrained.gguf.weights import open_gguf_tensors
from adapt_jax.pretrained.hf_config import read_config
from adapt_jax.pretrained.loading import get_parameters, load_pretrained
from adapt_jax.pretrained.saving import read_source_dtype
from adapt_jax.pretrained.without_weights import load_without_weights
from adapt_jax.utils.errors import UserError

gguf = pytest.importorskip("gguf")


Kind = gguf.GGMLQuantizationType


def rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **more}


HALF = {"rope_parameters": rope(300.0, partial_rotary_factor=0.5)}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}


MSCALE = {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}


ALTERNATING = [SLIDING] * 3 + [FULL]


GEMMA3 = {
    "query_pre_attn_scalar": 256,
    "num_hidden_layers": 6,
    "layer_types": [SLIDING] * 5 + [FULL],
    "rope_parameters": {
        FULL: {"rope_type": "linear", "factor": 3.0, "rope_theta": 300.0},
        SLIDING: rope(50.0),
    },
}


# A case of a family, changed where GGUF has no place for what it says.
CASES: dict[str, dict[str, Any]] = {
    "llama, llama3": {"rope_parameters": LLAMA3},
    "llama, yarn, biases": {},
    "llama, linear": {"tie_word_embeddings": True},
    "ministral3": {
        "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.4, "mscale": 1.0}
        | {"mscale_all_dim": 1.5, "original_max_position_embeddings": 16}
    },
    "mixtral": {"sliding_window": None, "rope_parameters": rope(300.0)},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "qwen3_moe": {"mlp_only_layers": []},
    "qwen2_moe": {"mlp_only_layers": [], "use_sliding_window": False},
    "olmoe": {},
    "glm4_moe": HALF,
    "dots1": {"sliding_window": None},
    "granitemoe": {},
    "granitemoeshared": {},
    "gpt_oss": {"swiglu_limit": 7.0},
    "gemma": {"rope_parameters": rope(10000.0)},
    "gemma2": {"query_pre_attn_scalar": 256},
    "gemma3": GEMMA3,
    "phi3": {},
    "phi3, longrope": {},
    "starcoder2": {},
    "stablelm": HALF,
    "stablelm, parallel": HALF,
    "olmo2": {"rope_parameters": rope(300.0)},
    "olmo3": {"rope_parameters": {FULL: YARN, SLIDING: rope(50.0)}},
    "smollm3": {
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "use_sliding_window": False,
    },
    "granite": {},
    "seed_oss": {},
    "glm4": {},
    "exaone4": {"num_hidden_layers": 4, "layer_types": ALTERNATING},
    "cohere2": {"num_hidden_layers": 4, "layer_types": ALTERNATING, "attention_bias": False},
    "gpt2": {},
    "phi": HALF,
    "falcon": {},
    "falcon, two norms": {},
    "cohere": {},
    "cohere, norms of heads": {},
    "nemotron": {},
    "olmo": {},
    "arcee": {},
    "ernie4_5": {},
    "hunyuan_v1_dense": {"rope_parameters": rope(300.0)},
    "bloom": {},
    "mpt": {"attn_config": {"clip_qkv": 0.9}},
    "mpt, untied": {},
    "deepseek_v2": {},
    "deepseek_v2, greedy, yarn, biases": {"attention_bias": False, "mlp_bias": False}
    | {"rope_parameters": MSCALE, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {},
    "deepseek_v3, pairs half a head apart, yarn, biases": {
        "rope_interleave": True,
        "attention_bias": False,
        "rope_parameters": MSCALE,
    },
    "youtu": {"attention_bias": False},
    "llama4": {
        "num_hidden_layers": 4,
        "moe_layers": [1, 3],
        "no_rope_layers": [1, 1, 1, 0],
        "attention_chunk_size": 8192,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    "lfm2": {},
    "lfm2, biases": {"conv_bias": False},
    "lfm2_moe": {"routed_scaling_factor": 1.0},
    "qwen3_next": {"norm_topk_prob": True, "mlp_only_layers": []},
    "qwen3_5": {"attention_bias": False},
    "qwen3_5_moe": {},
    "apertus": {"rope_parameters": LLAMA3},
    "gpt_neox": HALF,
    "gpt_neox, sequential": HALF | {"hidden_act": "gelu", "attention_bias": True},
}


def assert_same_decoder(folder: Path, path: Path, tolerances: dict[str, float]) -> None:
    """The decoder of a folder and of a file: config, and parameters by their last name."""
    expected, found = load_pretrained(folder), load_pretrained(path)
    same = {"bos_id": None, "eos_ids": (), "pad_id": None}
    assert replace(found.config, **same) == replace(expected.config, **same)
    wanted, got = get_parameters(expected.decoder), get_parameters(found.decoder)
    assert wanted.keys() == got.keys()
    for parameter, value in wanted.items():
        tolerance = tolerances.get(parameter[-1], 0.0)
        np.testing.assert_allclose(got[parameter], value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_the_decoder_that_it_was_written_from(name, tmp_path):
    """Config and parameters are equal, so all that is computed of them is."""
    pytest.importorskip("torch")
    make(tmp_path / "hf", name, **CASES[name])
    more = {}
    if "sliding_attention" in str(CASES[name]) and "gemma" not in name and name != "cohere2":
        said = json.loads((tmp_path / "hf/config.json").read_text())
        architecture = {"olmo3": "olmo2"}.get(name, name)
        sliding = [kind == SLIDING for kind in said["layer_types"]]
        more[f"{architecture}.attention.sliding_window_pattern"] = sliding
    path = write_gguf(tmp_path / "hf", tmp_path / "model.gguf", metadata=more)
    # norms lose a bit where one is added and taken away, and decays where they are exponentials
    adds_one = name.startswith(("gemma", "nemotron", "qwen3_next", "qwen3_5"))
    tolerances = {"scale": 2.5e-7, "decay_log": 2.5e-7} if adds_one else {}
    assert_same_decoder(tmp_path / "hf", path, tolerances)


def test_glm_flash_is_known_by_its_vocabulary(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(architectures, "GLM_VOCABULARY", 320)
    make(tmp_path / "hf", "glm4_moe_lite", mlp_layer_types=["dense", "sparse"])
    # as the first files, which say nothing of how experts are scored
    metadata = {"leading_dense_block_count": 1, "expert_gating_func": None}
    metadata = {f"deepseek2.{key}": value for key, value in metadata.items()}
    path = write_gguf(tmp_path / "hf", tmp_path / "model.gguf", metadata=metadata)
    assert_same_decoder(tmp_path / "hf", path, {})


def test_the_first_files_of_deepseek_have_whole_projections_and_no_groups(tmp_path):
    pytest.importorskip("torch")
    from safetensors.numpy import load_file

    changes = {"attention_bias": False, "mlp_bias": False, "rope_parameters": MSCALE}
    make(tmp_path / "hf", "deepseek_v2, greedy, yarn, biases", **changes)
    metadata = {
        **dict.fromkeys(("attention.key_length_mla", "attention.value_length_mla")),
        "attention.key_length": 18,
        "attention.value_length": 6,
        "attention.head_count_kv": 4,
        **dict.fromkeys(("expert_group_count", "expert_group_used_count")),
    }
    whole = {
        f"blk.{layer}.attn_kv_b.weight": load_file(tmp_path / "hf/model.safetensors")[
            f"model.layers.{layer}.self_attn.kv_b_proj.weight"
        ]
        for layer in range(2)
    }
    path = write_gguf(
        tmp_path / "hf",
        tmp_path / "model.gguf",
        metadata={f"deepseek2.{key}": value for key, value in metadata.items()},
        extra=whole,
        chosen=lambda name: "attn_k_b" not in name and "attn_v_b" not in name,
    )
    assert_same_decoder(tmp_path / "hf", path, {})


def test_quantised_heads_are_put_in_order_a_few_rows_at_a_time(tmp_path):
    """Of latent attention and delta nets, whose rows lie in several places of a file."""
    pytest.importorskip("torch")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2}
    for name, more in (
        ("deepseek_v3", {"kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 32}),
        ("qwen3_next", {"norm_topk_prob": True, "mlp_only_layers": []}),
        ("qwen3_5", {"attention_bias": False, "linear_value_head_dim": 16}),
    ):
        folder = tmp_path / name
        make(folder / "hf", name, **sizes, **more)
        path = write_gguf(folder / "hf", folder / "model.gguf", Kind.Q8_0)
        family, config = read_config(path)
        with ExitStack() as stack:
            for tensor in open_gguf_tensors(path, family, config, stack).values():
                if len(tensor.shape) == 2:
                    whole = tensor[:, :]
                    parts = [tensor[n : n + 5, :] for n in range(0, tensor.shape[0], 5)]
                    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_numbers_of_xielu_are_checked(tmp_path):
    pytest.importorskip("torch")
    make(tmp_path / "hf", "apertus", rope_parameters=LLAMA3)
    for beta, said in ((None, "expected a number for each of 2 layers"), ([1, 2], "found 1")):
        path = write_gguf(tmp_path / "hf", tmp_path / "m.gguf", metadata={"xielu.beta": beta})
        with pytest.raises(UserError, match=f"xielu.beta: {said}"):
            load_pretrained(path)


KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


KINDS += ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def write_blocks(folder: Path, name: str) -> tuple[Path, np.ndarray]:
    """A file whose embedding is of random blocks of this kind; and their bytes."""
    hf = write_tiny_llama(folder / "hf", hidden_size=256, head_dim=64, num_hidden_layers=1)
    kind = Kind[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    draws = np.random.default_rng(0)
    codes = draws.integers(0, 256, (320, 256 // block, size), dtype=np.uint8)
    codes[..., 1::2] &= 0x3F  # whichever bytes are a float16, it is finite
    blocks = codes.reshape(320, -1)
    path = write_gguf(hf, folder / "model.gguf", replaced={"token_embd.weight": (blocks, kind)})
    return path, blocks


@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_what_transformers_makes_of_them(name, tmp_path):
    torch = pytest.importorskip("torch")
    path, blocks = write_blocks(tmp_path, name)
    found = np.asarray(load_pretrained(path).decoder.embedding[...])
    if name in ("Q5_0", "Q5_1"):  # which transformers leaves to the package
        expected = torch.tensor(gguf.dequantize(blocks, Kind[name]))
    elif name in ("F16", "BF16"):
        dtype = torch.float16 if name == "F16" else torch.bfloat16
        expected = torch.tensor(blocks).view(dtype).float()
    else:
        from transformers.integrations.gguf.dequant import GGML_NAME
        from transformers.integrations.gguf.kernels import dequantize_blocks

        number = next(number for number, one in GGML_NAME.items() if one.upper() == name)
        expected = dequantize_blocks(torch.tensor(blocks), number, 320, 256, torch.float32)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_transformers_reads_the_same_tokens_template_and_weights(tmp_path, caplog):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = write_tiny_llama(tmp_path / "hf")
    path = write_gguf(hf, tmp_path / "model.gguf", Kind.Q8_0)
    ours = load_pretrained(path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in ("Jane has 12 apples.", " Who?\n\n naïve 日本", "a<|eos|>b", ""):
        assert ours.tokenizer(text).input_ids == theirs(text).input_ids
    assert ours.tokenizer.chat_template == theirs.chat_template
    assert ours.encode("Jane has 2 apples.") == load_pretrained(hf).encode("Jane has 2 apples.")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    state = model.state_dict()
    layer = ours.decoder.layers[1]
    for name, value in (("q_proj", layer.attention.query), ("k_proj", layer.attention.key)):
        wanted = state[f"model.layers.1.self_attn.{name}.weight"].numpy()
        np.testing.assert_array_equal(np.asarray(value.kernel[...]), wanted)
    # what it is, in log and inspection
    [line] = [one.message for one in caplog.records if "de-quantised" in one.message]
    assert "(GGUF: Q8_0, F32)" in line
    checkpoint = read_checkpoint(path)
    assert (checkpoint.quantization, checkpoint.dtype) == ("GGUF: Q8_0, F32", "bfloat16")
    assert checkpoint.nbytes < path.stat().st_size
    assert read_source_dtype(path) == "bfloat16"
    assert load_without_weights(path).config == ours.config
    assert _name_decoder(str(path)) == f"{str(tmp_path)!r}, gguf_file='model.gguf'"


def test_a_model_of_several_files(tmp_path):
    hf = write_tiny_llama(tmp_path / "hf")
    whole = load_pretrained(write_gguf(hf, tmp_path / "whole.gguf"))
    first, second = (tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    late = "output_norm.weight"
    total = len(gguf_file.read_gguf(tmp_path / "whole.gguf").tensors)
    split = {"split.count": 2, "split.tensors.count": total}
    write_gguf(hf, first, metadata=split, chosen=lambda name: name != late)
    write_gguf(hf, second, metadata=split, chosen=lambda name: name == late)
    assert load_pretrained(first).fingerprint == whole.fingerprint
    with pytest.raises(UserError, match="expected the first, NAME-00001-of-00002.gguf"):
        load_pretrained(second)
    second.unlink()
    with pytest.raises(UserError, match="m-00002-of-00002.gguf: no such file"):
        load_pretrained(first)


def test_frequencies_that_no_known_setting_gives_are_kept(tmp_path):
    factors = np.array([1.0, 1.5, 4.0, 7.0], np.float32)
    hf = write_tiny_llama(tmp_path / "hf")
    path = write_gguf(hf, tmp_path / "m.gguf", extra={"rope_freqs.weight": factors})
    _, config = read_config(path)
    rope = config.layer_config(0).rope
    assert rope is not None and rope.attention_scaling == 1.0
    plain = 10000.0 ** -(np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(rope.frequencies(8), plain / factors, rtol=1e-6)
    np.testing.assert_allclose(rope.frequencies(8, 10**6), plain / factors, rtol=1e-6)


def test_a_folder_with_a_gguf_file_says_how_to_name_it(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=re.escape(f"is named itself: {tmp_path / 'm.gguf'}")):
        load_pretrained(tmp_path)
