"""Mixtral (2401.04088): Mistral with a mixture of experts in every layer."""

from adapt_jax.decoders.families.experts import FUSED_EXPERTS, ROUTER, give_all_layers_experts
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
)
from adapt_jax.decoders.rope import Rope

FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        (HF_LAYER + "block_sparse_moe.gate.weight", LAYER + "ffn.router", False),
        (HF_LAYER + "block_sparse_moe.experts.{e}.w1.weight", LAYER + "ffn.gate", True),
        (HF_LAYER + "block_sparse_moe.experts.{e}.w3.weight", LAYER + "ffn.up", True),
        (HF_LAYER + "block_sparse_moe.experts.{e}.w2.weight", LAYER + "ffn.down", True),
    ),
    other_tensors=(*ROUTER, *FUSED_EXPERTS),  # as transformers 5 holds them in memory
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
    },
    moe_fields={
        "num_experts": ("num_local_experts", 8),
        "experts_per_token": ("num_experts_per_tok", 2),
        "ffn_dim": ("intermediate_size", REQUIRED),
    },
    layer_rules=LayerRules(
        rope=Rope(theta=1e6),
        window=lambda hf: hf.get("sliding_window"),
        adjust=give_all_layers_experts,
    ),
)
