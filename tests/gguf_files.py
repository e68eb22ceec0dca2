"""Writes the GGUF file of a tiny decoder, as llama.cpp's converter would.

What the converter changes is done here by hand: metadata for fields, query and key rows of Llama in
pairs, one added to the norms of Gemma, GPT-2's kernels turned, GPT-NeoX's projections regrouped,
experts stacked.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf_tensors import HEADS, WIDTHS, convert, count_kv_heads, take_first

FFN = ("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_hidden_size")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
__all__ = ["write_gguf"]

Kind = gguf.GGMLQuantizationType
NAMES = {
    "llama": "llama",
    "mistral": "llama",
    "ministral3": "mistral3",
    "phi": "phi2",
    "qwen2_moe": "qwen2moe",
    "glm4_moe": "glm4moe",
    "gpt_oss": "gpt-oss",
    "granitemoeshared": "granitemoe",
    "cohere": "command-r",
    "hunyuan_v1_dense": "hunyuan-dense",
    "mixtral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "qwen3_moe": "qwen3moe",
    "olmo3": "olmo2",
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu"), "deepseek2"),
    "llama4_text": "llama4",
    "lfm2_moe": "lfm2moe",
    "qwen3_next": "qwen3next",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
}


def write_gguf(
    folder: Path,
    path: Path,
    kind: Kind = Kind.F32,
    metadata: dict[str, Any] | None = None,
    *,
    extra: dict[str, np.ndarray] | None = None,
    replaced: dict[str, tuple[np.ndarray, Kind]] | None = None,
    chosen: Callable[[str], bool] = lambda name: True,
) -> Path:
    """Writes the decoder of a Hugging Face folder with float32 weights.

    Args:
        kind: of all tensors with two axes whose rows are whole blocks.
        metadata: more of it, or in the place of what is written; None leaves a key out.
        extra: more tensors.
        replaced: bytes of a kind, in the place of a tensor.
        chosen: whether the tensor of this name is written.
    """
    from safetensors.numpy import load_file

    hf = json.loads((folder / "config.json").read_text())
    arch = NAMES.get(hf["model_type"], hf["model_type"])
    said = metadata or {}
    writer = gguf.GGUFWriter(path, said.get("general.architecture", arch))
    state = load_file(folder / "model.safetensors")
    fields = {**_list_fields(hf, arch), **_list_tokens(folder, hf), **_take_xielu(state), **said}
    for key, value in fields.items():
        if key != "general.architecture":
            _add(writer, key, value)
    layers = take_first(hf, LAYERS)
    [number] = [one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == arch]
    names = gguf.get_tensor_name_map(number, layers)
    for name, array in {**convert(state, hf, arch), **(extra or {})}.items():
        for ours, theirs in SPELLINGS:
            name = re.sub(ours, theirs, name)
        own = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if not chosen(own):
            continue
        if own in (replaced or {}):
            blocks, used = replaced[own]
            writer.add_tensor(own, blocks, raw_dtype=used)
            continue
        array = np.require(array, np.float32, "C")  # of the same shape, a number included
        block = gguf.GGML_QUANT_SIZES[kind][0]
        used = kind if array.ndim > 1 and array.shape[-1] % block == 0 else Kind.F32
        writer.add_tensor(own, gguf.quantize(array, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SPELLINGS = (
    ("e_score_correction_bias", "e_score_correction.bias"),
    ("expert_bias$", "expert_bias.bias"),
    ("dt_bias$", "dt_proj.bias"),
    (r"^model\.(.*feed_forward\.experts\.w)", r"\1"),
)


def _take_xielu(state: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The numbers of xIELU in all layers, as metadata; they are no tensors any more."""
    numbers: dict[str, dict[int, float]] = {}
    for name in [name for name in state if ".act_fn." in name]:
        part, layer = name.rpartition(".")[2], int(name.split(".")[2])
        numbers.setdefault(f"xielu.{part}", {})[layer] = float(state.pop(name).reshape(()))
    return {key: [by_layer[n] for n in sorted(by_layer)] for key, by_layer in numbers.items()}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _list_fields(hf: dict[str, Any], arch: str) -> dict[str, Any]:
    """The metadata of sizes and positions."""
    rope = hf.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)
    heads, width = take_first(hf, HEADS), take_first(hf, WIDTHS)
    head_dim = hf.get("head_dim") or width // heads
    fields = {
        "block_count": take_first(hf, LAYERS),
        "context_length": take_first(hf, LENGTHS) or 2048,
        "embedding_length": width,
        "feed_forward_length": take_first(hf, FFN)
        or (4 * width if arch in ("bloom", "mpt") else None),
        "attention.head_count": heads,
        "attention.head_count_kv": count_kv_heads(hf),
        "attention.layer_norm_rms_epsilon": hf.get("rms_norm_eps") or hf.get("norm_eps"),
        "attention.layer_norm_epsilon": next(
            (hf[n] for n in EPSILONS if n in hf),
            None,
        ),
        "attention.key_length": hf.get("head_dim"),
        "attention.value_length": hf.get("head_dim"),
        "attention.sliding_window": hf.get("sliding_window"),
        "attn_logit_softcapping": hf.get("attn_logit_softcapping"),
        "final_logit_softcapping": hf.get("final_logit_softcapping"),
        "rope.dimension_count": int(head_dim * full.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": full.get("rope_theta"),
        "rope.freq_base_swa": rope.get("sliding_attention", {}).get("rope_theta"),
        "expert_count": next((hf[n] for n in EXPERTS if hf.get(n)), None),
        "expert_used_count": hf.get("num_experts_per_tok"),
        "expert_shared_feed_forward_length": hf.get("shared_expert_intermediate_size")
        or hf.get("shared_intermediate_size"),
        "expert_shared_count": hf.get("n_shared_experts"),
        "expert_group_count": hf.get("n_group"),
        "expert_group_used_count": hf.get("topk_group"),
        "expert_weights_scale": hf.get("routed_scaling_factor"),
        "expert_weights_norm": hf.get("norm_topk_prob"),
        "leading_dense_block_count": hf.get("first_k_dense_replace"),
        "expert_feed_forward_length": hf.get("moe_intermediate_size"),
        "attention.scale": hf.get("attention_multiplier"),
        "embedding_scale": hf.get("embedding_multiplier"),
        "residual_scale": hf.get("residual_multiplier"),
        "logit_scale": hf.get("logits_scaling") or hf.get("logit_scale"),
        "attention.temperature_scale": full.get("llama_4_scaling_beta"),
        "rope.scaling.yarn_log_multiplier": full.get("mscale_all_dim"),
        "attention.clamp_kqv": hf.get("clip_qkv"),
        "use_parallel_residual": hf.get("use_parallel_residual"),
        **_list_special_fields(hf, arch),
    }
    if full.get("rope_type") in ("linear", "yarn"):
        fields |= {"rope.scaling.type": full["rope_type"], "rope.scaling.factor": full["factor"]}
        fields["rope.scaling.original_context_length"] = full.get(
            "original_max_position_embeddings"
        )
        fields["rope.scaling.yarn_beta_fast"] = full.get("beta_fast")
        fields["rope.scaling.yarn_beta_slow"] = full.get("beta_slow")
    if full.get("long_factor"):
        fields["rope.scaling.original_context_length"] = full["original_max_position_embeddings"]
    return {f"{arch}.{key}": value for key, value in fields.items()}


def _list_special_fields(hf: dict[str, Any], arch: str) -> dict[str, Any]:
    """What the converter of one architecture writes by itself."""
    if arch == "mpt":
        attention = hf["attn_config"]
        clip, most = attention.get("clip_qkv"), float(attention.get("alibi_bias_max", 8))
        return {"attention.clamp_kqv": clip, "attention.max_alibi_bias": most}
    if arch == "deepseek2":
        rank, rope_dim = hf["kv_lora_rank"], hf["qk_rope_head_dim"]
        mscale = hf["rope_parameters"].get("mscale_all_dim")
        has_experts = hf.get("n_routed_experts") is not None
        return {
            "attention.head_count_kv": 1,
            "attention.kv_lora_rank": rank,
            "attention.q_lora_rank": hf["q_lora_rank"],
            "attention.key_length": rank + rope_dim,
            "attention.value_length": rank,
            "attention.key_length_mla": hf["qk_nope_head_dim"] + rope_dim,
            "attention.value_length_mla": hf["v_head_dim"],
            "rope.dimension_count": rope_dim,
            "rope.scaling.yarn_log_multiplier": mscale and 0.1 * mscale,
            "expert_gating_func": 1 if hf["model_type"] == "deepseek_v2" else 2,
            "leading_dense_block_count": hf.get("first_k_dense_replace")
            if has_experts
            else hf["num_hidden_layers"],
            "expert_group_count": hf.get("n_group"),
            "expert_weights_norm": hf.get("norm_topk_prob") or None,
        }
    if arch == "llama4":
        step = hf["num_hidden_layers"] // len(hf["moe_layers"])
        return {
            "interleave_moe_layer_step": step,
            "expert_feed_forward_length": hf["intermediate_size"],
        }
    if arch.startswith("lfm2"):
        attends = [kind == "full_attention" for kind in hf["layer_types"]]
        return {
            "attention.head_count_kv": [hf["num_key_value_heads"] * one for one in attends],
            "shortconv.l_cache": hf["conv_L_cache"],
            "leading_dense_block_count": hf.get("num_dense_layers"),
            "feed_forward_length": _adjust_width(hf),
        }
    if arch.startswith(("qwen3next", "qwen35")):
        value_heads = hf["linear_num_value_heads"]
        return {
            "ssm.conv_kernel": hf["linear_conv_kernel_dim"],
            "ssm.state_size": hf["linear_key_head_dim"],
            "ssm.group_count": hf["linear_num_key_heads"],
            "ssm.time_step_rank": value_heads,
            "ssm.inner_size": hf["linear_value_head_dim"] * value_heads,
            "full_attention_interval": 2,
        }
    return {}


def _adjust_width(hf: dict[str, Any]) -> int:
    """The feed-forward size of LFM2."""
    width = hf["intermediate_size"]
    if not hf.get("block_auto_adjust_ff_dim"):
        return width
    width, multiple = (
        int(hf["block_ffn_dim_multiplier"] * (2 * width // 3)),
        hf["block_multiple_of"],
    )
    return multiple * -(-width // multiple)


def _list_tokens(folder: Path, hf: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a byte-level BPE tokenizer."""
    said = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {token: number for token, number in said["model"]["vocab"].items()}
    added = {one["content"]: one["id"] for one in said["added_tokens"]}
    tokens = [f"[PAD{n}]" for n in range(hf["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for token, number in {**vocabulary, **added}.items():
        tokens[number] = token
        types[number] = gguf.TokenType.CONTROL if token in added else gguf.TokenType.NORMAL
    merges = [one if isinstance(one, str) else " ".join(one) for one in said["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(one) for one in types],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}",
    }
