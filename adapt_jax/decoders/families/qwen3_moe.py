"""Qwen3 with a mixture of experts in most layers (2505.09388)."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig, MoEConfig
from adapt_jax.decoders.families import qwen3
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, TENSORS, default_head_dim


def _count_experts(hf: HFConfig) -> int:
    """The number of experts; transformers 5 has a new name for it."""
    return int(hf.get("num_experts", hf.get("num_local_experts", 128)))


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Every ``decoder_sparse_step``-th layer has experts, unless ``mlp_only_layers`` names it."""
    dense = index in (hf.get("mlp_only_layers") or ()) or _count_experts(hf) == 0
    return replace(layer, is_moe=not dense and (index + 1) % hf.get("decoder_sparse_step", 1) == 0)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The mixture of experts, where there is one."""
    moe = MoEConfig(
        num_experts=_count_experts(hf),
        experts_per_token=hf.get("num_experts_per_tok", 8),
        ffn_dim=hf.get("moe_intermediate_size", 768),
        normalize_weights=hf.get("norm_topk_prob", False),
    )
    return {"moe": moe if moe.num_experts else None}


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The mixture of experts, and the layers that have it."""
    layers, moe = range(config.num_layers), config.moe or MoEConfig(0, 8, 768, False)
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.ffn_dim,
        "norm_topk_prob": moe.normalize_weights,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [n for n in layers if not config.layer_config(n).is_moe],
        "use_sliding_window": config.layer_config(0).window is not None,
    }


FAMILY = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    tensors=(
        *TENSORS,
        (HF_LAYER + "mlp.gate.weight", LAYER + "ffn.router", False),
        (HF_LAYER + "mlp.experts.{e}.gate_proj.weight", LAYER + "ffn.gate", True),
        (HF_LAYER + "mlp.experts.{e}.up_proj.weight", LAYER + "ffn.up", True),
        (HF_LAYER + "mlp.experts.{e}.down_proj.weight", LAYER + "ffn.down", True),
    ),
    fields={
        **qwen3.FAMILY.fields,
        "head_dim": ("head_dim", default_head_dim),
        "num_kv_heads": ("num_key_value_heads", 4),
    },
    fixed_fields={"qk_norm": "head"},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(window=qwen3.FAMILY.layer_rules.window, adjust=_adjust_layer),
)
