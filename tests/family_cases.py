"""The cases that the tests of families share.

Each case is a row of data: the fields of a ``config.json`` beside its sizes. What is the same in
many cases is in family_fields.py; family_models.py makes a checkpoint of a case.
"""

from typing import Any

from family_cases_older import OLDER_CASES
from family_cases_state import STATE_CASES
from family_fields import (
    CORRECTED,
    EXPERTS,
    FULL,
    GEMMA3N,
    GEMMA4,
    GRANITE,
    HALF_ROTATED,
    LATENT,
    LLAMA3,
    LONG,
    MSCALE,
    ROUTED,
    SCALED_LONG,
    SLIDING,
    TWO_ROPES,
    YARN,
)

# name -> (model type, fields beside those of sizes_of)
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
    "gemma3n": (
        "gemma3n_text",
        {
            **GEMMA3N,
            "num_hidden_layers": 5,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
            "num_kv_shared_layers": 2,
            "intermediate_size": [48, 40, 48, 32, 48],
            "activation_sparsity_pattern": [0.7, 0.0, 0.9, 0.0, 0.5],
        },
    ),
    "gemma3n, other streams": (
        "gemma3n_text",
        {**GEMMA3N, "altup_num_inputs": 3, "altup_active_idx": 1, "altup_correct_scale": False}
        | {"layer_types": [SLIDING, FULL], "num_kv_shared_layers": 0, "attention_bias": True},
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
    **STATE_CASES,
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
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {"moe_num_experts": 6, "moe_k": 3, "moe_intermediate_size": 24, "use_bias": True}
        | {"moe_num_shared_experts": 2, "tie_word_embeddings": False, "num_hidden_layers": 4}
        | {"moe_layer_end_index": 2, "moe_norm_min": 0.8},
    ),
    "jais2": ("jais2", {}),
    "minimax_m2": (
        "minimax_m2",
        {"head_dim": 16, "num_local_experts": 6, "num_experts_per_tok": 3}
        | {"rope_parameters": HALF_ROTATED},
    ),
    "phimoe": (
        "phimoe",
        {"num_local_experts": 6, "router_jitter_noise": 0.2, "attention_bias": True}
        | {"lm_head_bias": True, "sliding_window": 9},
    ),
    "phimoe, longrope": (
        "phimoe",
        {"num_local_experts": 6, "router_jitter_noise": 0.2, "rope_parameters": SCALED_LONG},
    ),
    "nemotron": ("nemotron", {"rope_parameters": HALF_ROTATED, "mlp_bias": True}),
    "olmo": ("olmo", {"clip_qkv": 0.7}),
    "persimmon": ("persimmon", {"rope_parameters": HALF_ROTATED}),
    "persimmon, no norms of heads": (
        "persimmon",
        {"rope_parameters": HALF_ROTATED, "qk_layernorm": False},
    ),
    "vaultgemma": ("vaultgemma", {"head_dim": 16, "sliding_window": 9}),
    **OLDER_CASES,
}
# Their layers keep a state.
WITH_STATE = ["lfm2", "lfm2, biases", "qwen3_5", "granitemoehybrid", "mamba", "mamba2", "falcon_h1"]
# Where transformers lets padding on the left change a state: a projection adds its bias to it.
LEAKS = {"lfm2, biases", "mamba", "mamba2", "llama4", "falcon_h1, norm before the gate, biases"}
