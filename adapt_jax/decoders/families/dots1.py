"""dots.llm1 (2506.05767): QK-norm, experts with corrected sigmoid scores and shared ones."""

from adapt_jax.decoders.families.experts import (
    CORRECTED_MOE_FIELDS,
    CORRECTED_MOE_TENSORS,
    FIXED_CORRECTED_MOE_FIELDS,
    FUSED_EXPERTS,
    give_experts_from,
    read_shared_experts,
    write_first_dense,
)
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, NO_BOS_AND_EOS, TENSORS


def _is_sliding(hf: HFConfig, index: int) -> bool:
    """The layers from ``max_window_layers`` on slide, where there is a window."""
    has_window = hf.get("sliding_window", 4096) is not None
    return has_window and index >= hf.get("max_window_layers", 62)


FAMILY = Family(
    architecture="Dots1ForCausalLM",
    model_type="dots1",
    tensors=(*TENSORS, *CORRECTED_MOE_TENSORS),
    other_tensors=FUSED_EXPERTS,
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **NO_BOS_AND_EOS,
        "num_kv_heads": ("num_key_value_heads", 32),
    },
    fixed_fields={"qk_norm": "head"},
    moe_fields={**CORRECTED_MOE_FIELDS, "normalize_weights": ("norm_topk_prob", False)},
    fixed_moe_fields=FIXED_CORRECTED_MOE_FIELDS,
    computed_moe_fields=read_shared_experts(ffn_dim=1408, num_shared=0),
    extra_hf_fields=write_first_dense,
    layer_rules=LayerRules(
        window=lambda hf: hf.get("sliding_window", 4096),
        is_sliding=_is_sliding,
        adjust=give_experts_from(0),
    ),
)
