"""OLMoE (2409.02060): experts in every layer; QK-norm over the whole projection."""

from adapt_jax.decoders.families import olmo2
from adapt_jax.decoders.families.experts import (
    EXPERTS,
    FUSED_EXPERTS,
    ROUTER,
    give_all_layers_experts,
)
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import ATTENTION, EMBEDDING_AND_OUTPUT, PRE_NORMS

FAMILY = Family(
    architecture="OlmoeForCausalLM",
    model_type="olmoe",
    tensors=(*EMBEDDING_AND_OUTPUT, *ATTENTION, *PRE_NORMS, *ROUTER, *EXPERTS),
    other_tensors=FUSED_EXPERTS,
    fields={
        **olmo2.FAMILY.fields,
        "context_length": ("max_position_embeddings", 4096),
        "qkv_clip": ("clip_qkv", None),
    },
    fixed_fields={"qk_norm": "projection"},
    moe_fields={
        "num_experts": ("num_experts", 64),
        "experts_per_token": ("num_experts_per_tok", 8),
        "ffn_dim": ("intermediate_size", REQUIRED),
        "normalize_weights": ("norm_topk_prob", False),
    },
    layer_rules=LayerRules(adjust=give_all_layers_experts),
)
