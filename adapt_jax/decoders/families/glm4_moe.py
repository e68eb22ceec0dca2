"""GLM-4-MoE: GLM-4.5 and 4.6 (2508.06471): partial rotation, QK-norm in the largest, experts."""

from typing import Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.experts import (
    CORRECTED_MOE_FIELDS,
    CORRECTED_MOE_TENSORS,
    FIXED_CORRECTED_MOE_FIELDS,
    FUSED_EXPERTS,
    give_experts_from,
    ignore_extra_layers,
    read_shared_experts,
    write_first_dense,
)
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, NO_BOS_AND_EOS, TENSORS
from adapt_jax.decoders.rope import Rope


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Whether queries and keys are normed."""
    return {"qk_norm": "head" if hf.get("use_qk_norm", False) else None}


def _extra_hf_fields(config: DecoderConfig) -> dict[str, Any]:
    """The dense layers, the shared experts, and whether queries and keys are normed.

    No layers that predict further tokens are written.
    """
    extra = {"use_qk_norm": config.qk_norm is not None, "num_nextn_predict_layers": 0}
    return write_first_dense(config) | extra


FAMILY = Family(
    architecture="Glm4MoeForCausalLM",
    model_type="glm4_moe",
    tensors=(*TENSORS, *CORRECTED_MOE_TENSORS),
    other_tensors=FUSED_EXPERTS,
    fields={
        **FIELDS,
        **NO_BOS_AND_EOS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "qkv_bias": ("attention_bias", False),
    },
    computed_fields=_computed_fields,
    moe_fields={
        **CORRECTED_MOE_FIELDS,
        "num_experts": (("n_routed_experts", "num_local_experts"), 128),
        "experts_per_token": ("num_experts_per_tok", 8),
    },
    fixed_moe_fields=FIXED_CORRECTED_MOE_FIELDS,
    computed_moe_fields=read_shared_experts(ffn_dim=1408),
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.5),
        partial_rotary_field="partial_rotary_factor",
        adjust=give_experts_from(1),
    ),
    ignored_tensors_for=ignore_extra_layers,
)
