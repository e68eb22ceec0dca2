"""DeepSeek-V2 and V3 (2405.04434, 2412.19437): latent attention, many experts in groups.

Kimi-K2 and Moonlight are V3 by another name.
"""

from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.experts import (
    CORRECTED_MOE_FIELDS,
    CORRECTED_MOE_TENSORS,
    EXPERTS,
    FIXED_CORRECTED_MOE_FIELDS,
    FUSED_EXPERTS,
    ROUTER,
    give_experts_from,
    ignore_extra_layers,
    read_shared_experts,
    shared_expert,
    write_first_dense,
)
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.latent import (
    LATENT_ATTENTION,
    read_latent_attention,
    write_latent_attention,
)
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    GATED_FFN,
    MLP_BIAS,
    PRE_NORMS,
)
from adapt_jax.decoders.rope import Rope

__all__ = ["V2", "V3", "choose_rope_pairs", "write_v3"]

SIZES = {"kv_rank": 512, "query_rank": 1536, "nope_dim": 128, "rope_dim": 64, "value_dim": 128}
GREEDY, GROUPED = "greedy", "group_limited_greedy"  # topk_method of V2


def _compute_v2_moe(hf: HFConfig) -> HFConfig:
    """The size of the shared experts, and the groups where there are some."""
    values = dict(read_shared_experts(ffn_dim=1407, num_shared=2)(hf))
    if hf.get("topk_method", GREEDY) == GREEDY:
        return values
    for name in ("n_group", "topk_group"):
        if hf.get(name) is None:
            raise KeyError(name)
    return values | {"num_groups": hf["n_group"], "groups_per_token": hf["topk_group"]}


def _write_v2(config: DecoderConfig) -> HFConfig:
    """The fields of ``config.json`` that are no rows of tables."""
    moe = config.moe
    return {
        **write_latent_attention(config),
        **write_first_dense(config),
        "topk_method": GROUPED if moe is not None and moe.num_groups > 1 else GREEDY,
        "n_group": None if moe is None else moe.num_groups,
        "topk_group": None if moe is None else moe.groups_per_token,
    }


V2 = Family(
    architecture="DeepseekV2ForCausalLM",
    model_type="deepseek_v2",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *LATENT_ATTENTION,
        *GATED_FFN,
        *PRE_NORMS,
        *ROUTER,
        *EXPERTS,
        *shared_expert("mlp.shared_experts"),
    ),
    other_tensors=FUSED_EXPERTS,
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **MLP_BIAS,
        "head_dim": ("qk_rope_head_dim", 64),
    },
    computed_fields=lambda hf: read_latent_attention(hf, **SIZES),
    moe_fields={
        "num_experts": (("n_routed_experts", "num_experts"), 64),
        "experts_per_token": ("num_experts_per_tok", REQUIRED),
        "ffn_dim": ("moe_intermediate_size", 1407),
        "weight_scale": ("routed_scaling_factor", 1.0),
    },
    fixed_moe_fields={"normalize_weights": False},
    computed_moe_fields=_compute_v2_moe,
    extra_hf_fields=_write_v2,
    supported_values={
        "topk_method": (GREEDY, GROUPED),
        "scoring_func": ("softmax",),
        "norm_topk_prob": (False, None),
        "moe_layer_freq": (1,),
    },
    layer_rules=LayerRules(rope=Rope(interleaved=True), adjust=give_experts_from(0)),
    ignored_tensors_for=ignore_extra_layers,
)


def choose_rope_pairs(hf: HFConfig, layer: LayerConfig) -> LayerConfig:
    """Sets which features are rotated together: neighbours, or those half a head apart."""
    assert layer.rope is not None
    return replace(layer, rope=replace(layer.rope, interleaved=hf.get("rope_interleave", True)))


def write_v3(config: DecoderConfig) -> dict[str, Any]:
    """The fields of ``config.json`` that are no rows of tables.

    No layers that predict further tokens are written.
    """
    rope = config.layer_config(0).rope
    assert rope is not None
    return {
        **write_latent_attention(config),
        **write_first_dense(config),
        "rope_interleave": rope.interleaved,
        "num_nextn_predict_layers": 0,
    }


V3 = replace(
    V2,
    architecture="DeepseekV3ForCausalLM",
    model_type="deepseek_v3",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *LATENT_ATTENTION,
        *GATED_FFN,
        *PRE_NORMS,
        *CORRECTED_MOE_TENSORS,
    ),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "head_dim": ("qk_rope_head_dim", 64),
        "num_kv_heads": ("num_key_value_heads", 128),
        "context_length": ("max_position_embeddings", 4096),
        "bos_id": ("bos_token_id", 0),
        "eos_ids": ("eos_token_id", 1),
    },
    moe_fields={
        **CORRECTED_MOE_FIELDS,
        "num_experts": (("n_routed_experts", "num_local_experts"), 256),
        "experts_per_token": ("num_experts_per_tok", 8),
        "ffn_dim": ("moe_intermediate_size", 2048),
        "num_groups": ("n_group", 8),
        "groups_per_token": ("topk_group", 4),
        "weight_scale": ("routed_scaling_factor", 2.5),
    },
    fixed_moe_fields=FIXED_CORRECTED_MOE_FIELDS,
    computed_moe_fields=read_shared_experts(ffn_dim=2048),
    extra_hf_fields=write_v3,
    supported_values={
        "topk_method": ("noaux_tc",),
        "scoring_func": ("sigmoid",),
        "moe_layer_freq": (1,),
    },
    layer_rules=LayerRules(
        adjust=lambda hf, index, layer: choose_rope_pairs(
            hf, give_experts_from(3)(hf, index, layer)
        )
    ),
)
