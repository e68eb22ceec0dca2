"""The architectures of llama.cpp that are read, and what is special in each.

Most differ from Llama in nothing that ``config.py`` does not read of all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapt_jax.pretrained.gguf.file import GGUFFile

__all__ = ["ARCHITECTURES", "Architecture", "Fields"]

Fields = dict[str, Any]  # of a config.json
# Groups of the experts of DeepSeek-V3 and V2, and how many of them a token's experts are from.
FIRST_GROUPS = {256: (8, 4), 160: (8, 3)}
GLM_VOCABULARY = 154880  # of GLM-4.7-Flash, which llama.cpp knows by it, too
SIGMOID = 2  # expert_gating_func: each expert's score is a sigmoid
LAYER_KINDS = ("full_attention", "linear_attention")


@dataclass(frozen=True)
class Architecture:
    """What is special in an architecture of llama.cpp.

    Attributes:
        name: the architecture that ``config.json`` names, one of FAMILIES.
        pairs_features: whether the rows of query and key kernels are reordered within each head,
            so that the two features of a rotated pair are neighbours.
        adjust: the fields that are computed in its own way.
        tiles_heads: whether the value heads of delta nets are in another order (``row_order``).
    """

    name: str
    pairs_features: bool = False
    adjust: Callable[[GGUFFile, Fields], Fields] = lambda file, hf: {}
    tiles_heads: bool = False


def _adjust_llama(file: GGUFFile, hf: Fields) -> Fields:
    """Mixtral is a Llama with experts; Mistral a Llama, and here it is one too."""
    return {"architectures": ["MixtralForCausalLM"]} if hf.get("num_local_experts") else {}


def _adjust_gemma2(file: GGUFFile, hf: Fields) -> Fields:
    """Queries of the largest decoder are scaled by the width over the heads, of others by 256."""
    scale = hf["hidden_size"] // hf["num_attention_heads"] if hf["num_hidden_layers"] == 46 else 256
    return {"query_pre_attn_scalar": scale}


def _adjust_gemma3(file: GGUFFile, hf: Fields) -> Fields:
    """Scales queries as Gemma 2 does. Every sixth layer is full, if any layer has a window."""
    scale = hf["hidden_size"] // hf["num_attention_heads"] if hf["num_hidden_layers"] == 62 else 256
    pattern = 1 if hf["sliding_window"] is None else 6
    return {"query_pre_attn_scalar": scale, "sliding_window_pattern": pattern} | (
        {"sliding_window": 4096} if pattern == 1 else {}
    )


def _adjust_stablelm(file: GGUFFile, hf: Fields) -> Fields:
    """Parallel residuals share their norm, so the second one is not there."""
    return {"use_parallel_residual": not file.has("ffn_norm.weight")}


def _adjust_gptneox(file: GGUFFile, hf: Fields) -> Fields:
    return {"use_parallel_residual": bool(file.get("use_parallel_residual", True))}


def _adjust_falcon(file: GGUFFile, hf: Fields) -> Fields:
    """A second norm is in the newer architecture alone."""
    heads, kv_heads = hf["num_attention_heads"], hf["num_key_value_heads"]
    has_two_norms = file.has("attn_norm_2.weight")
    return {
        "new_decoder_architecture": has_two_norms or kv_heads not in (1, heads),
        "num_ln_in_parallel_attn": 2 if has_two_norms else None,
        "multi_query": kv_heads == 1,
        "num_kv_heads": kv_heads,
        "ffn_hidden_size": hf["intermediate_size"],
    }


def _adjust_gpt_oss(file: GGUFFile, hf: Fields) -> Fields:
    """The range of pairs that YaRN blends is not rounded to whole pairs."""
    width = file.get("expert_feed_forward_length") or hf["intermediate_size"]
    return {"rope_scaling": {**(hf["rope_scaling"] or {}), "truncate": False}} | (
        {"intermediate_size": width}
    )


def _adjust_granitemoe(file: GGUFFile, hf: Fields) -> Fields:
    """With a shared expert it is another architecture."""
    has_shared = file.has("ffn_up_shexp.weight")
    name = "GraniteMoeSharedForCausalLM" if has_shared else "GraniteMoeForCausalLM"
    return {"architectures": [name]} | _adjust_granite(file, hf)


def _adjust_corrected_experts(file: GGUFFile, hf: Fields) -> Fields:
    """Sigmoid scores with a correction, groups, shared experts; layers that predict further tokens
    come last and are left out."""
    return {
        "num_hidden_layers": hf["num_hidden_layers"] - (file.get("nextn_predict_layers") or 0),
        "n_routed_experts": hf.get("num_experts", 0),
        "n_shared_experts": file.get("expert_shared_count", 0),
        "n_group": file.get("expert_group_count", 1),
        "topk_group": file.get("expert_group_used_count", 1),
        "routed_scaling_factor": file.get("expert_weights_scale", 1.0),
        "norm_topk_prob": bool(file.get("expert_weights_norm", False)),
        "first_k_dense_replace": file.get("leading_dense_block_count", 0),
        "use_qk_norm": file.has("attn_q_norm.weight"),
    }


def _list_layer_types(file: GGUFFile, hf: Fields) -> Fields:
    """The layers that slide, where the metadata lists them."""
    pattern = file.get("attention.sliding_window_pattern")
    if not isinstance(pattern, list):
        return {}
    names = ("full_attention", "sliding_attention")
    return {"layer_types": [names[bool(one)] for one in pattern]}


def _adjust_olmo2(file: GGUFFile, hf: Fields) -> Fields:
    """OLMo 3 is OLMo 2 with sliding layers; its full layers alone scale their positions."""
    if hf["sliding_window"] is None:
        return {}
    theta = hf["rope_theta"]
    sliding = {"rope_theta": file.get("rope.freq_base_swa", theta)}
    ropes = {"full_attention": {"rope_theta": theta}, "sliding_attention": sliding}
    return {
        "architectures": ["Olmo3ForCausalLM"],
        "rope_parameters": ropes,
        **_list_layer_types(file, hf),
    }


def _adjust_granite(file: GGUFFile, hf: Fields) -> Fields:
    """Four multipliers, each with a name of its own in both worlds."""
    return {
        "attention_multiplier": file.get("attention.scale", 1.0),
        "embedding_multiplier": file.get("embedding_scale", 1.0),
        "residual_multiplier": file.get("residual_scale", 1.0),
        "logits_scaling": file.get("logit_scale", 1.0),
    }


def _adjust_mistral3(file: GGUFFile, hf: Fields) -> Fields:
    """Ministral 3 scales queries by position; without that it is Mistral."""
    beta = file.get("attention.temperature_scale")
    if not beta:
        return {}
    scale = {"mscale": 1.0, "mscale_all_dim": file.get("rope.scaling.yarn_log_multiplier", 1.0)}
    rope = {**(hf["rope_scaling"] or {}), **scale, "llama_4_scaling_beta": beta}
    return {"architectures": ["Ministral3ForCausalLM"], "rope_scaling": rope}


def _adjust_mpt(file: GGUFFile, hf: Fields) -> Fields:
    """Its attention is described in a part of its own."""
    return {
        "d_model": hf["hidden_size"],
        "n_heads": hf["num_attention_heads"],
        "n_layers": hf["num_hidden_layers"],
        "max_seq_len": hf["max_position_embeddings"],
        "attn_config": {
            "alibi": bool(file.get("attention.max_alibi_bias")),
            "alibi_bias_max": file.get("attention.max_alibi_bias"),
            "clip_qkv": file.get("attention.clamp_kqv"),
        },
        "no_bias": not any(name.endswith(".bias") for name in file.tensors),
    }


def _adjust_deepseek2(file: GGUFFile, hf: Fields) -> Fields:
    """Latent attention, in files with divided or whole projections from latents; which of several
    families it is, the scores of its experts say."""
    rope_dim = file.get("rope.dimension_count")
    query_dim = file.get("attention.key_length_mla") or file.get("attention.key_length")
    latent = {
        "num_key_value_heads": hf["num_attention_heads"],
        "kv_lora_rank": file.get("attention.kv_lora_rank"),
        "q_lora_rank": file.get("attention.q_lora_rank") if file.has("attn_q_a.weight") else None,
        "qk_rope_head_dim": rope_dim,
        "qk_nope_head_dim": query_dim - rope_dim,
        "v_head_dim": file.get("attention.value_length_mla") or file.get("attention.value_length"),
        "partial_rotary_factor": None,  # of a head without its features that have no positions
        "attention_bias": file.has("attn_kv_a_mqa.bias"),
        "rope_scaling": _add_mscale(file, hf["rope_scaling"]),
    }
    if not hf.get("num_experts"):
        return {"architectures": ["YoutuForCausalLM"], **latent}
    latent |= _adjust_corrected_experts(file, hf)
    if file.get("expert_group_count") is None:  # the first files do not say
        groups = FIRST_GROUPS.get(latent["n_routed_experts"], (1, 1))
        latent |= dict(zip(("n_group", "topk_group"), groups, strict=True))
    is_corrected = any(name.endswith(".exp_probs_b.bias") for name in file.tensors)
    if file.get("expert_gating_func") != SIGMOID and not is_corrected:
        grouped = latent["n_group"] > 1
        return latent | {"topk_method": "group_limited_greedy" if grouped else "greedy"}
    if hf["vocab_size"] != GLM_VOCABULARY:
        return {"architectures": ["DeepseekV3ForCausalLM"], **latent}
    num_dense, count = latent.pop("first_k_dense_replace"), latent["num_hidden_layers"]
    kinds = ["dense"] * num_dense + ["sparse"] * (count - num_dense)
    return {"architectures": ["Glm4MoeLiteForCausalLM"], **latent, "mlp_layer_types": kinds}


def _add_mscale(file: GGUFFile, rope: Fields | None) -> Fields | None:
    """YaRN with the scale of attention, of which these files hold a tenth."""
    tenth = file.get("rope.scaling.yarn_log_multiplier")
    if rope is None or not tenth:
        return rope
    mscale = float(f"{10 * tenth:.6g}")
    return {**rope, "mscale": mscale, "mscale_all_dim": mscale}


def _adjust_llama4(file: GGUFFile, hf: Fields) -> Fields:
    """Most of what is special in Llama 4 is the same in all of its files."""
    is_full = file.get("attention.sliding_window") == 0
    layers = hf["num_hidden_layers"]
    return {
        "intermediate_size_mlp": hf["intermediate_size"],
        "intermediate_size": file.get("expert_feed_forward_length"),
        "interleave_moe_layer_step": file.get("interleave_moe_layer_step", 1),
        "use_qk_norm": file.get("expert_count") != 128,  # which Maverick has
        "attention_chunk_size": None if is_full else 8192,
        "no_rope_layers": [1] * layers if is_full else None,
    }


def _adjust_lfm2(file: GGUFFile, hf: Fields) -> Fields:
    """Layers without key/value heads are convolutions."""
    listed = file.get("attention.head_count_kv")
    kinds = [listed] * hf["num_hidden_layers"] if isinstance(listed, int) else listed
    return {
        "layer_types": ["full_attention" if kind else "conv" for kind in kinds],
        "conv_L_cache": file.get("shortconv.l_cache"),
        "conv_bias": any(name.endswith("shortconv.conv.bias") for name in file.tensors),
        "block_auto_adjust_ff_dim": False,
        "norm_eps": hf["rms_norm_eps"],
        "num_dense_layers": file.get("leading_dense_block_count", 0),
        "use_expert_bias": any(name.endswith("exp_probs_b.bias") for name in file.tensors),
    }


def _adjust_delta_net(file: GGUFFile, hf: Fields) -> Fields:
    """Delta nets in most layers; layers that predict further tokens come last."""
    layers = hf["num_hidden_layers"] - (file.get("nextn_predict_layers") or 0)
    value_heads = file.get("ssm.time_step_rank")
    recurrent = file.get("attention.recurrent_layers")
    if not isinstance(recurrent, list):
        interval = file.get("full_attention_interval", 4)
        recurrent = [(index + 1) % interval != 0 for index in range(layers)]
    return {
        "num_hidden_layers": layers,
        "layer_types": [LAYER_KINDS[bool(one)] for one in recurrent[:layers]],
        "linear_num_key_heads": file.get("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": file.get("ssm.state_size"),
        "linear_value_head_dim": file.get("ssm.inner_size") // value_heads,
        "linear_conv_kernel_dim": file.get("ssm.conv_kernel"),
        "norm_topk_prob": True,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", True, _adjust_llama),
    "mistral3": Architecture("MistralForCausalLM", True, _adjust_mistral3),
    "qwen2": Architecture("Qwen2ForCausalLM"),
    "qwen3": Architecture("Qwen3ForCausalLM"),
    "qwen3moe": Architecture(
        "Qwen3MoeForCausalLM", adjust=lambda file, hf: {"norm_topk_prob": True}
    ),
    "qwen2moe": Architecture(
        "Qwen2MoeForCausalLM", adjust=lambda file, hf: {"norm_topk_prob": False}
    ),
    "olmoe": Architecture("OlmoeForCausalLM", adjust=lambda file, hf: {"norm_topk_prob": False}),
    "glm4moe": Architecture("Glm4MoeForCausalLM", adjust=_adjust_corrected_experts),
    "dots1": Architecture("Dots1ForCausalLM", adjust=_adjust_corrected_experts),
    "gpt-oss": Architecture("GptOssForCausalLM", adjust=_adjust_gpt_oss),
    "granitemoe": Architecture("GraniteMoeForCausalLM", True, _adjust_granitemoe),
    "gemma": Architecture("GemmaForCausalLM"),
    "gemma2": Architecture("Gemma2ForCausalLM", adjust=_adjust_gemma2),
    "gemma3": Architecture("Gemma3ForCausalLM", adjust=_adjust_gemma3),
    "phi3": Architecture("Phi3ForCausalLM"),
    "starcoder2": Architecture("Starcoder2ForCausalLM"),
    "gpt2": Architecture("GPT2LMHeadModel"),
    "gptneox": Architecture("GPTNeoXForCausalLM", adjust=_adjust_gptneox),
    "stablelm": Architecture("StableLmForCausalLM", adjust=_adjust_stablelm),
    "olmo2": Architecture("Olmo2ForCausalLM", adjust=_adjust_olmo2),
    "smollm3": Architecture("SmolLM3ForCausalLM", True),
    "granite": Architecture("GraniteForCausalLM", True, _adjust_granite),
    "glm4": Architecture("Glm4ForCausalLM"),
    "exaone4": Architecture("Exaone4ForCausalLM", adjust=_list_layer_types),
    "cohere2": Architecture("Cohere2ForCausalLM"),
    "seed_oss": Architecture("SeedOssForCausalLM"),
    "phi2": Architecture("PhiForCausalLM"),
    "falcon": Architecture("FalconForCausalLM", adjust=_adjust_falcon),
    "command-r": Architecture(
        "CohereForCausalLM",
        adjust=lambda file, hf: {"use_qk_norm": file.has("attn_q_norm.weight")},
    ),
    "nemotron": Architecture("NemotronForCausalLM"),
    "olmo": Architecture("OlmoForCausalLM", True),
    "arcee": Architecture("ArceeForCausalLM", True),
    "ernie4_5": Architecture("Ernie4_5ForCausalLM"),
    "bloom": Architecture(
        "BloomForCausalLM",
        adjust=lambda file, hf: {"seq_length": hf.get("max_position_embeddings", 2048)},
    ),
    "mpt": Architecture("MptForCausalLM", adjust=_adjust_mpt),
    "deepseek2": Architecture("DeepseekV2ForCausalLM", adjust=_adjust_deepseek2),
    "llama4": Architecture("Llama4ForCausalLM", adjust=_adjust_llama4),
    "lfm2": Architecture("Lfm2ForCausalLM", adjust=_adjust_lfm2),
    "lfm2moe": Architecture("Lfm2MoeForCausalLM", adjust=_adjust_lfm2),
    "qwen3next": Architecture("Qwen3NextForCausalLM", adjust=_adjust_delta_net),
    "qwen35": Architecture("Qwen3_5ForCausalLM", tiles_heads=True, adjust=_adjust_delta_net),
    "qwen35moe": Architecture("Qwen3_5MoeForCausalLM", tiles_heads=True, adjust=_adjust_delta_net),
    "apertus": Architecture("ApertusForCausalLM"),
    "hunyuan-dense": Architecture("HunYuanDenseV1ForCausalLM"),
}
