"""The cases that the tests of families share.

Each case is a row of data: a ``config.json`` with the sizes of ``SIZES``. Weights are random, with
a standard deviation of 0.2: with small ones an error in the rotary positions hides.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_llama import tiny_tokenizer

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.decoder import Decoder

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 5000.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 10.0,
    "beta_slow": 1.0,
    "rope_theta": 100.0,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0],
    "long_factor": [2.0, 3.0, 5.0],
    "rope_theta": 5000.0,
    "partial_rotary_factor": 0.75,
}
HALF_ROTATED = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
THETA_300 = {"rope_type": "default", "rope_theta": 300.0}
FULL, SLIDING = "full_attention", "sliding_attention"
TWO_ROPES = {FULL: YARN, SLIDING: {"rope_type": "default", "rope_theta": 50.0}}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
CORRECTED = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
    "num_local_experts": 5,
}
GPT2 = {
    "vocab_size": 320,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 8192,
    "n_inner": 80,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
OPT = {
    "vocab_size": 320,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
GEMMA4 = {
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 9,
    "hidden_size_per_layer_input": 0,
    "layer_types": [SLIDING, FULL],
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        SLIDING: {"rope_type": "default", "rope_theta": 50.0},
    },
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 20,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
}
MSCALE = {**YARN, "mscale": 0.5, "mscale_all_dim": 1.5}
ROUTED = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.7,
}
MAMBA = {
    "layer_types": ["linear_attention", FULL],
    "mamba_n_heads": 4,
    "mamba_n_groups": 2,
    "mamba_d_state": 6,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 16,
    "shared_intermediate_size": 40,
    "tie_word_embeddings": True,
}
DELTA_NET = {
    "layer_types": ["linear_attention", FULL],
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 3,
    "rope_parameters": HALF_ROTATED,
}
# name -> (model type, fields beside SIZES)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-3}),
    "llama, yarn, biases": (
        "llama",
        {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "llama, linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 300.0}},
    ),
    "llama, dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 300.0},
            "max_position_embeddings": 256,
        },
    ),
    "mistral": ("mistral", {"sliding_window": 9, "head_dim": 16}),
    "ministral": (
        "ministral",
        {"head_dim": 8, "sliding_window": 9, "layer_types": [SLIDING, FULL]},
    ),
    "ministral3": (
        "ministral3",
        {
            "head_dim": 16,
            "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.4, "mscale": 0.5}
            | {"mscale_all_dim": 1.5, "original_max_position_embeddings": 16}
            | {"beta_fast": 0.5, "beta_slow": 0.1},
        },
    ),
    "qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3_moe": (
        "qwen3_moe",
        {"head_dim": 16, "mlp_only_layers": [1], "norm_topk_prob": True, **EXPERTS},
    ),
    "qwen3_moe, not normalized": (
        "qwen3_moe",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 9, **EXPERTS},
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {
            **EXPERTS,
            "mlp_only_layers": [1],
            "shared_expert_intermediate_size": 20,
            "use_sliding_window": True,
            "sliding_window": 9,
        },
    ),
    "qwen2_moe, no biases": (
        "qwen2_moe",
        {
            **EXPERTS,
            "qkv_bias": False,
            "norm_topk_prob": True,
            "shared_expert_intermediate_size": 20,
        },
    ),
    "olmoe": ("olmoe", {"num_experts": 6, "num_experts_per_tok": 3, "clip_qkv": 0.9}),
    "granitemoe": ("granitemoe", {**GRANITE, "attention_bias": True}),
    "granitemoeshared": ("granitemoeshared", {**GRANITE, "shared_intermediate_size": 20}),
    "gpt_oss": (
        "gpt_oss",
        {
            "head_dim": 8,
            "sliding_window": 9,
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "swiglu_limit": 0.5,
            "rope_parameters": {**YARN, "truncate": False},
        },
    ),
    "glm4_moe": (
        "glm4_moe",
        {**CORRECTED, "head_dim": 16, "use_qk_norm": True, "attention_bias": True},
    ),
    "dots1": ("dots1", {**CORRECTED, "sliding_window": 9, "max_window_layers": 1}),
    "dots1, no groups": (
        "dots1",
        {**CORRECTED, "n_group": 1, "topk_group": 1, "norm_topk_prob": False},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": 9}),
    "gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma2, full": ("gemma2", {"head_dim": 16, "layer_types": [FULL, FULL]}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "rope_parameters": TWO_ROPES,
            "layer_types": [SLIDING, FULL],
        },
    ),
    "gemma4": ("gemma4_text", {**GEMMA4, "final_logit_softcapping": 5.0}),
    "gemma4, experts": (
        "gemma4_text",
        {
            **GEMMA4,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 3,
            "moe_intermediate_size": 24,
            "use_bidirectional_attention": "vision",
        },
    ),
    "gemma4, per-layer embeddings": (
        "gemma4_text",
        {
            **GEMMA4,
            "num_hidden_layers": 5,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
            "attention_k_eq_v": False,
            "attention_bias": True,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": 330,
        },
    ),
    "gemma4, unified": (
        "gemma4_unified_text",
        {name: value for name, value in GEMMA4.items() if "per_layer" not in name},
    ),
    "phi3": ("phi3", {"sliding_window": 9}),
    "phi3, longrope": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": 128},
    ),
    "olmo2": ("olmo2", {"rope_parameters": LLAMA3}),
    "olmo3": (
        "olmo3",
        {"sliding_window": 9, "rope_parameters": TWO_ROPES, "layer_types": [SLIDING, FULL]},
    ),
    "smollm3": (
        "smollm3",
        {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 9},
    ),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "seed_oss": ("seed_oss", {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "glm4": ("glm4", {"head_dim": 16, "rope_parameters": HALF_ROTATED}),
    "starcoder2": ("starcoder2", {"sliding_window": 9}),
    "stablelm": ("stablelm", {"rope_parameters": HALF_ROTATED, "use_qkv_bias": True}),
    "stablelm, parallel": (
        "stablelm",
        {"rope_parameters": HALF_ROTATED, "use_parallel_residual": True},
    ),
    "exaone4": ("exaone4", {"sliding_window": 9, "layer_types": [SLIDING, FULL]}),
    "cohere2": (
        "cohere2",
        {
            "sliding_window": 9,
            "layer_types": [SLIDING, FULL],
            "logit_scale": 0.25,
            "attention_bias": True,
        },
    ),
    "minicpm3": ("minicpm3", {**LATENT, "scale_depth": 1.3, "dim_model_base": 20}),
    "minicpm3, yarn, biases": (
        "minicpm3",
        {
            **LATENT,
            "q_lora_rank": None,
            "v_head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": MSCALE,
        },
    ),
    "deepseek_v2": (
        "deepseek_v2",
        {
            **LATENT,
            **ROUTED,
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
            "n_shared_experts": 2,
        },
    ),
    "deepseek_v2, greedy, yarn, biases": (
        "deepseek_v2",
        {
            **LATENT,
            **ROUTED,
            "q_lora_rank": None,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": MSCALE,
        },
    ),
    "deepseek_v3": ("deepseek_v3", {**LATENT, **ROUTED, "first_k_dense_replace": 1}),
    "deepseek_v3, pairs half a head apart, yarn, biases": (
        "deepseek_v3",
        {
            **LATENT,
            **ROUTED,
            "q_lora_rank": None,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "rope_interleave": False,
            "attention_bias": True,
            "rope_parameters": MSCALE,
        },
    ),
    "glm4_moe_lite": (
        "glm4_moe_lite",
        {**LATENT, **ROUTED, "v_head_dim": 24, "mlp_layer_types": ["sparse", "dense"]},
    ),
    # transformers 5.24 sets the embedding of padding to zero where there is some
    "youtu": ("youtu", {**LATENT, "attention_bias": True, "pad_token_id": None}),
    "llama4": (
        "llama4_text",
        {
            "head_dim": 16,
            "intermediate_size_mlp": 40,
            "num_local_experts": 4,
            "moe_layers": [0],
            "no_rope_layers": [1, 0],
            "attention_chunk_size": 9,
            "floor_scale": 30,
            "attn_scale": 0.4,
        },
    ),
    "llama4, two experts, no norm, biases": (
        "llama4_text",
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "no_rope_layers": [0, 1],
            "attention_chunk_size": None,
            "attn_temperature_tuning": False,
            "floor_scale": 30,
            "use_qk_norm": False,
            "attention_bias": True,
            "rope_parameters": LLAMA3,
        },
    ),
    "lfm2": (
        "lfm2",
        {"layer_types": ["conv", FULL], "block_multiple_of": 5, "rope_parameters": THETA_300},
    ),
    "lfm2_moe": (
        "lfm2_moe",
        {**EXPERTS, "layer_types": ["conv", FULL], "num_dense_layers": 1}
        | {"routed_scaling_factor": 1.5},
    ),
    "lfm2, biases": (
        "lfm2",
        {
            "layer_types": ["conv", FULL, "conv"],
            "num_hidden_layers": 3,
            "conv_bias": True,
            "conv_L_cache": 4,
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_5": ("qwen3_5_text", {**DELTA_NET, "attention_bias": True}),
    "mamba2": (
        "mamba2",
        {"num_heads": 4, "head_dim": 16, "n_groups": 2, "state_size": 6, "conv_kernel": 3}
        | {"use_bias": True, "chunk_size": 16},
    ),
    "nemotron_h": (
        "nemotron_h",
        {"layers_block_type": ["linear_attention", "mlp", FULL, "mlp"], "num_hidden_layers": 4}
        | {"mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 6}
        | {"conv_kernel": 3, "chunk_size": 16, "head_dim": 8, "mlp_bias": True},
    ),
    "qwen3_next": (
        "qwen3_next",
        {**DELTA_NET, **EXPERTS, "shared_expert_intermediate_size": 20, "norm_topk_prob": False}
        | {"mlp_only_layers": [1]},
    ),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        {**DELTA_NET, **EXPERTS, "shared_expert_intermediate_size": 20},
    ),
    "granitemoehybrid": (
        "granitemoehybrid",
        {**MAMBA, "num_local_experts": 5, "num_experts_per_tok": 2, "embedding_multiplier": 3.0},
    ),
    "granitemoehybrid, no experts": (
        "granitemoehybrid",
        {
            **MAMBA,
            "num_local_experts": 0,
            "position_embedding_type": "rope",
            "mamba_conv_bias": False,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
            "attention_bias": True,
        },
    ),
    "gpt2": ("gpt2", GPT2),
    "gpt_neo": (
        "gpt_neo",
        {**OPT, "num_layers": 2, "num_heads": 4, "window_size": 9, "intermediate_size": 48}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "apertus": ("apertus", {"rope_parameters": LLAMA3}),
    "apertus, other activation": ("apertus", {"hidden_act": "relu2", "attention_bias": True}),
    "arcee": ("arcee", {"mlp_bias": True}),
    "cohere": ("cohere", {"logit_scale": 0.25, "attention_bias": True}),
    "cohere, norms of heads": ("cohere", {"use_qk_norm": True, "logit_scale": 0.5}),
    "ernie4_5": ("ernie4_5", {"use_bias": True, "head_dim": 16}),
    "glm": ("glm", {"head_dim": 16, "rope_parameters": HALF_ROTATED}),
    "helium": ("helium", {"head_dim": 8, "attention_bias": True}),
    "hunyuan_v1_dense": (
        "hunyuan_v1_dense",
        {"head_dim": 16, "attention_bias": True}
        | {"rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0}},
    ),
    "hunyuan_v1_moe": (
        "hunyuan_v1_moe",
        {"head_dim": 16, "num_experts": 5, "moe_topk": [2, 2], "attention_bias": True}
        | {"rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0}},
    ),
    "jais2": ("jais2", {}),
    "nemotron": ("nemotron", {"rope_parameters": HALF_ROTATED, "mlp_bias": True}),
    "olmo": ("olmo", {"clip_qkv": 0.7}),
    "persimmon": ("persimmon", {"rope_parameters": HALF_ROTATED}),
    "persimmon, no norms of heads": (
        "persimmon",
        {"rope_parameters": HALF_ROTATED, "qk_layernorm": False},
    ),
    "vaultgemma": ("vaultgemma", {"head_dim": 16, "sliding_window": 9}),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 6}),
    "opt": ("opt", OPT),
    "opt, without biases": (
        "opt",
        {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}
        | {"tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "phi": ("phi", {"rope_parameters": HALF_ROTATED}),
    "phi, norms of heads": ("phi", {"rope_parameters": HALF_ROTATED, "qk_layernorm": True}),
    "falcon": ("falcon", {"ffn_hidden_size": 48}),
    "falcon, two norms": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}
        | {"tie_word_embeddings": False, "ffn_hidden_size": 48},
    ),
    "falcon, one norm": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon, sequential": (
        "falcon",
        {"parallel_attn": False, "multi_query": False, "bias": True, "rope_parameters": LLAMA3},
    ),
    "gpt_neox": ("gpt_neox", {"rope_parameters": HALF_ROTATED}),
    "gpt_neox, sequential": (
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "rope_parameters": HALF_ROTATED,
        },
    ),
}
# The first case of each family; the others differ in what has nothing to do with decoding.
FIRST = [name for name in CASES if "," not in name or name == "llama, llama3"]
# These differ from other families in tables alone.
ALIKE = (
    "arcee",
    "ernie4_5",
    "glm",
    "glm4_moe_lite",
    "helium",
    "jais2",
    "nemotron",
    "olmo",
    "persimmon",
    "vaultgemma",
    "youtu",
)
FIRST = [name for name in FIRST if name not in ALIKE]
FIRST += ["gemma4, experts", "gemma4, per-layer embeddings"]
# Model types whose cases name all sizes themselves.
OWN_SIZES = {"gpt2": ("n_embd", "n_layer", "n_head"), "gptj": ("n_embd", "n_layer", "n_head")}
OWN_SIZES["gptj"] += ("rotary_dim",)
OWN_SIZES["gpt_neo"] = ("hidden_size", "num_layers", "num_heads", "attention_types")
OWN_SIZES["opt"] = ("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads")
OWN_SIZES["dots1"] = ("hidden_size", "intermediate_size", "num_hidden_layers")
OWN_SIZES["dots1"] += ("num_attention_heads", "num_key_value_heads")
OWN_SIZES["dots1"] += ("n_routed_experts", "num_experts_per_tok")  # have no defaults
OWN_SIZES["granitemoehybrid"] = ("hidden_size", "intermediate_size", "num_hidden_layers")
OWN_SIZES["granitemoehybrid"] += ("num_attention_heads", "num_key_value_heads", "mamba_n_heads")
OWN_SIZES["mamba2"] = ("hidden_size", "num_hidden_layers", "num_heads", "head_dim", "n_groups")
OWN_SIZES["nemotron_h"] = ("hidden_size", "intermediate_size", "layers_block_type")
WITH_STATE = [
    "lfm2",
    "lfm2, biases",
    "qwen3_5",
    "granitemoehybrid",
    "mamba2",
]  # layers that keep a state
# Where transformers lets padding on the left change a state: a projection adds its bias to it.
LEAKS = {"lfm2, biases", "mamba2", "llama4"}
ROPES = ["llama, yarn, biases", "llama, linear", "llama, dynamic", "phi3, longrope"]
PROMPT = (5, 9, 17, 30, 4, 8, 200, 310, 77, 12, 40, 41, 42, 300)


def sizes_of(model_type: str) -> dict[str, Any]:
    """The sizes that a config of this type has besides the fields of its case."""
    if model_type in ("gpt2", "gptj", "gpt_neo", "opt"):
        return {}
    sizes = dict(SIZES)
    if model_type in ("gpt_neox", "persimmon"):
        del sizes["num_key_value_heads"]
    if model_type == "falcon":
        del sizes["num_key_value_heads"], sizes["intermediate_size"]
    return sizes


def make(folder: Path, name: str, **changes: Any) -> Any:
    """Writes a random checkpoint of a case with transformers; returns the PyTorch model."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, fields = CASES[name]
    fields = {**sizes_of(model_type), **fields, **changes}
    config = CONFIG_MAPPING[model_type](**copy.deepcopy(fields))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = ("norm" in key or "ln_" in key) and model_type != "nemotron"
            is_scale = scale and key.endswith("weight") and "proj" not in key
            centre = 1.0 if is_scale else 0.0
            value.copy_(torch.randn(value.shape) * 0.2 + centre)
        for key, value in model.named_buffers():
            if key.endswith(("layer_scalar", "e_score_correction_bias", ".expert_bias")):
                value.copy_(torch.randn(value.shape) * 0.2 + 1.0)
        model.tie_weights()
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return model


def tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 320, (rows, length)).astype(np.int32)


def run(decoder: Decoder, ids: np.ndarray, last: int = 0, compiled: bool = True) -> jax.Array:
    """Logits [B, T, V], or those of the last tokens alone.

    Compiled by default, which takes half the time. Op by op, decoders of many configs share the
    compilations of their operations.
    """
    graphdef, state = nnx.split(decoder)
    forward = _compiled_logits if compiled else _compute_logits
    return forward(graphdef, state, jnp.asarray(ids), last)


def _compute_logits(graphdef: Any, state: nnx.State, ids: jax.Array, last: int) -> jax.Array:
    decoder = nnx.merge(graphdef, state)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, _ = decoder(decoder.embed(ids), positions, causal_mask(jnp.ones_like(ids)))
    return decoder.logits(hidden[:, -last:])  # -0: all


_compiled_logits = partial(jax.jit, static_argnums=(0, 3))(_compute_logits)
