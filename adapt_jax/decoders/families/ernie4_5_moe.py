"""ERNIE 4.5 with experts (Baidu, 2025): 21B-A3B and 300B-A47B."""

from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import ernie4_5
from adapt_jax.decoders.families.experts import EXPERTS, FUSED_EXPERTS, ROUTER, shared_expert
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, TENSORS, default_head_dim

CORRECTION = "moe_statics.e_score_correction_bias"


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Every ``moe_layer_interval``-th layer of a range has experts."""
    first, last = hf.get("moe_layer_start_index", 1), hf.get("moe_layer_end_index", -1)
    is_inside = first <= index and (last == -1 or index <= last)
    return replace(layer, is_moe=is_inside and (index + 1) % hf.get("moe_layer_interval", 1) == 0)


def _read_shared_experts(hf: HFConfig) -> HFConfig:
    """The width of the shared experts, which together are one."""
    count = hf.get("moe_num_shared_experts", 2)
    return {"shared_ffn_dim": count * hf.get("moe_intermediate_size", 1536)}


def _extra_hf_fields(config: DecoderConfig) -> dict[str, Any]:
    """Which layers have experts, and how many shared ones there are."""
    moe = config.moe
    assert moe is not None
    layers = [n for n in range(config.num_layers) if config.layer_config(n).is_moe]
    return {
        "moe_layer_start_index": layers[0] if layers else config.num_layers,
        "moe_layer_end_index": layers[-1] if layers else config.num_layers - 1,
        "moe_layer_interval": layers[1] - layers[0] if len(layers) > 1 else 1,
        "moe_num_shared_experts": moe.shared_ffn_dim // moe.ffn_dim,
    }


FAMILY = Family(
    architecture="Ernie4_5_MoeForCausalLM",
    model_type="ernie4_5_moe",
    tensors=(
        *TENSORS,
        ("lm_head.bias", "output.bias", False),
        *ROUTER,
        (HF_LAYER + "mlp." + CORRECTION, LAYER + "ffn.correction_bias", False),
        *EXPERTS,
        *shared_expert("mlp.shared_experts"),
    ),
    # as transformers 5 holds them in memory
    other_tensors=(
        (HF_LAYER + "mlp.gate." + CORRECTION, LAYER + "ffn.correction_bias", False),
        *FUSED_EXPERTS,
    ),
    fields={
        **ernie4_5.FAMILY.fields,
        "num_kv_heads": ("num_key_value_heads", 4),
        "head_dim": ("head_dim", default_head_dim),
        "lm_head_bias": ("use_bias", False),
    },
    moe_fields={
        "num_experts": (("moe_num_experts", "num_experts"), 64),
        "experts_per_token": (("moe_k", "num_experts_per_tok"), 6),
        "ffn_dim": ("moe_intermediate_size", 1536),
        "min_weight_sum": ("moe_norm_min", 1e-12),
    },
    fixed_moe_fields={"correction_bias": True, "correction_bias_axes": 2},
    computed_moe_fields=_read_shared_experts,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=replace(ernie4_5.FAMILY.layer_rules, adjust=_adjust_layer),
    ignored_tensors=("*rotary_emb.inv_freq", "*mtp*"),  # which predict further tokens
)
