"""Fields of config.json that the cases of families share."""

from typing import Any

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
SCALED_LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [2.0, 3.0, 5.0, 7.0],
    "short_mscale": 1.3,
    "long_mscale": 1.3,
    "original_max_position_embeddings": 128,
    "rope_theta": 5000.0,
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
GEMMA3N = {
    "head_dim": 16,
    "sliding_window": 9,
    "rope_parameters": TWO_ROPES,
    "hidden_size_per_layer_input": 6,
    "vocab_size_per_layer_input": 300,
    "laurel_rank": 5,
    "final_logit_softcapping": 5.0,
}
FALCON_H1 = {
    "mamba_d_ssm": 24,
    "mamba_n_heads": 4,
    "mamba_d_head": 6,
    "mamba_n_groups": 2,
    "mamba_d_state": 6,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 16,
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.5,
    "key_multiplier": 0.4,
    "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 0.7,
    "ssm_in_multiplier": 0.8,
    "ssm_out_multiplier": 1.3,
    "mlp_multipliers": [0.6, 1.4],
    "ssm_multipliers": [0.5, 1.5, 0.7, 1.2, 0.9],
}
BLOOM = {
    "vocab_size": 320,
    "hidden_size": 48,
    "n_layer": 2,
    "n_head": 6,  # no power of two
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
MPT = {
    "vocab_size": 320,
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 6,
    "max_seq_len": 8192,
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
# Model types whose cases name all sizes themselves.
OWN_SIZES = {"gpt2": ("n_embd", "n_layer", "n_head"), "gptj": ("n_embd", "n_layer", "n_head")}
OWN_SIZES["gptj"] += ("rotary_dim",)
OWN_SIZES["gpt_neo"] = ("hidden_size", "num_layers", "num_heads", "attention_types")
OWN_SIZES["opt"] = ("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads")
OWN_SIZES["bloom"] = ("hidden_size", "n_layer", "n_head")
OWN_SIZES["mpt"] = ("d_model", "n_layers", "n_heads")
OWN_SIZES["dots1"] = ("hidden_size", "intermediate_size", "num_hidden_layers")
OWN_SIZES["dots1"] += ("num_attention_heads", "num_key_value_heads")
OWN_SIZES["dots1"] += ("n_routed_experts", "num_experts_per_tok")  # have no defaults
OWN_SIZES["granitemoehybrid"] = ("hidden_size", "intermediate_size", "num_hidden_layers")
OWN_SIZES["granitemoehybrid"] += ("num_attention_heads", "num_key_value_heads", "mamba_n_heads")
OWN_SIZES["mamba2"] = ("hidden_size", "num_hidden_layers", "num_heads", "head_dim", "n_groups")
OWN_SIZES["bamba"] = OWN_SIZES["granitemoehybrid"]
OWN_SIZES["falcon_h1"] = (*OWN_SIZES["granitemoehybrid"], "mamba_d_ssm", "mamba_d_head")
OWN_SIZES["gemma3n_text"] = ("hidden_size", "intermediate_size", "num_hidden_layers")
OWN_SIZES["gemma3n_text"] += ("num_attention_heads", "num_kv_shared_layers", "layer_types")
OWN_SIZES["mamba"] = OWN_SIZES["falcon_mamba"] = ("hidden_size", "num_hidden_layers")
OWN_SIZES["nemotron_h"] = ("hidden_size", "intermediate_size", "layers_block_type")


def sizes_of(model_type: str) -> dict[str, Any]:
    """The sizes that a config of this type has besides the fields of its case."""
    if model_type in ("gpt2", "gptj", "gpt_neo", "opt", "bloom", "mpt"):
        return {}
    sizes = dict(SIZES)
    if model_type in ("mamba", "falcon_mamba"):
        del sizes["intermediate_size"]
    if model_type in ("gpt_neox", "persimmon"):
        del sizes["num_key_value_heads"]
    if model_type == "falcon":
        del sizes["num_key_value_heads"], sizes["intermediate_size"]
    return sizes
