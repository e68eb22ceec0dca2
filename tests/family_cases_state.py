"""The cases of families with layers that keep a state, among others."""

from typing import Any

from family_fields import (
    CORRECTED,
    DELTA_NET,
    EXPERTS,
    FALCON_H1,
    FULL,
    HALF_ROTATED,
    MAMBA,
    THETA_300,
)

# name -> (model type, fields beside those of sizes_of)
STATE_CASES: dict[str, tuple[str, dict[str, Any]]] = {
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
    "mamba": (
        "mamba",
        {"state_size": 6, "conv_kernel": 3, "time_step_rank": 5, "use_bias": True, "expand": 3},
    ),
    "falcon_mamba": (
        "falcon_mamba",
        {"state_size": 6, "mixer_rms_eps": 1e-3, "use_conv_bias": False},
    ),
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
    "nemotron_h, experts": (
        "nemotron_h",
        {"layers_block_type": ["linear_attention", "moe", FULL, "moe"], "num_hidden_layers": 4}
        | {"mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 6}
        | {"conv_kernel": 3, "chunk_size": 16, "head_dim": 8, "mlp_bias": True}
        | {**CORRECTED, "moe_shared_expert_intermediate_size": 20, "moe_latent_size": 12},
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
    "bamba": (
        "bamba",
        {name: value for name, value in MAMBA.items() if name.startswith("mamba")}
        | {"attn_layer_indices": [1], "attention_bias": True, "mlp_bias": True}
        | {"rope_parameters": HALF_ROTATED},
    ),
    "falcon_h1": ("falcon_h1", FALCON_H1),
    "falcon_h1, norm before the gate, biases": (
        "falcon_h1",
        {
            **FALCON_H1,
            "mamba_rms_norm": True,
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
            "projectors_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "falcon_h1, norm after the gate": (
        "falcon_h1",
        {**FALCON_H1, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
    ),
}
