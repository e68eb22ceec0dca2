"""Qwen3 with a mixture of experts in most layers (2505.09388)."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import qwen3
from adapt_jax.decoders.families.experts import EXPERTS, FUSED_EXPERTS, ROUTER
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import TENSORS, default_head_dim

NUM_EXPERTS = ("num_experts", "num_local_experts")  # transformers 5 has a new name for it


def adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Every ``decoder_sparse_step``-th layer has experts, unless ``mlp_only_layers`` names it."""
    has_none = any(hf.get(name) == 0 for name in NUM_EXPERTS)
    dense = has_none or index in (hf.get("mlp_only_layers") or ())
    return replace(layer, is_moe=not dense and (index + 1) % hf.get("decoder_sparse_step", 1) == 0)


def write_layers(config: DecoderConfig) -> HFConfig:
    """Which layers have experts, and whether they slide."""
    layers = range(config.num_layers)
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [n for n in layers if not config.layer_config(n).is_moe],
        "use_sliding_window": any(config.layer_config(n).window is not None for n in layers),
    }


FAMILY = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    tensors=(*TENSORS, *ROUTER, *EXPERTS),
    other_tensors=FUSED_EXPERTS,
    fields={
        **qwen3.FAMILY.fields,
        "head_dim": ("head_dim", default_head_dim),
        "num_kv_heads": ("num_key_value_heads", 4),
    },
    fixed_fields={"qk_norm": "head"},
    moe_fields={
        "num_experts": (NUM_EXPERTS, 128),
        "experts_per_token": ("num_experts_per_tok", 8),
        "ffn_dim": ("moe_intermediate_size", 768),
        "normalize_weights": ("norm_topk_prob", False),
    },
    extra_hf_fields=write_layers,
    layer_rules=LayerRules(window=qwen3.FAMILY.layer_rules.window, adjust=adjust_layer),
)
