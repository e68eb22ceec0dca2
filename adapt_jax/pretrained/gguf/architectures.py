"""The architectures of llama.cpp that are read, and what is special in each.

Most differ from Llama in nothing that ``config.py`` does not read of all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapt_jax.pretrained.gguf.file import GGUFFile

__all__ = ["ARCHITECTURES", "Architecture", "Fields"]

Fields = dict[str, Any]  # of a config.json


@dataclass(frozen=True)
class Architecture:
    """What is special in an architecture of llama.cpp.

    Attributes:
        name: the architecture that ``config.json`` names, one of FAMILIES.
        pairs_features: whether the rows of query and key kernels are reordered within each head,
            so that the two features of a rotated pair are neighbours.
        adjust: the fields that are computed in its own way.
    """

    name: str
    pairs_features: bool = False
    adjust: Callable[[GGUFFile, Fields], Fields] = lambda file, hf: {}


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
    "hunyuan-dense": Architecture("HunYuanDenseV1ForCausalLM"),
}
