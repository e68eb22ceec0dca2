"""Qwen3 with a mixture of experts in most layers (2505.09388); the same inside Qwen3-VL."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import qwen3
from adapt_jax.decoders.families.experts import EXPERTS, FUSED_EXPERTS, ROUTER
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, TENSORS, default_head_dim

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


def _has_outputs_first(config: DecoderConfig, tensors: Mapping[str, Any]) -> bool:
    """Whether the kernels of experts are [experts, out, in], as transformers 5 writes them."""
    if config.moe is None:
        return False
    inputs = {"gate_up_proj": config.embed_dim, "down_proj": config.moe.ffn_dim}
    names = {
        f"model.layers.{n}.mlp.experts.{name}": size
        for n in range(config.num_layers)
        for name, size in inputs.items()
    }
    found = [tensors[name].shape[-1:] == (size,) for name, size in names.items() if name in tensors]
    return bool(found) and all(found)


VL = replace(
    FAMILY,
    model_type="qwen3_vl_moe_text",
    tensors=(
        *TENSORS,
        *ROUTER,
        # on the hub [experts, in, out], unlike elsewhere
        (HF_LAYER + "mlp.experts.gate_up_proj", (LAYER + "ffn.gate", LAYER + "ffn.up"), False),
        (HF_LAYER + "mlp.experts.down_proj", LAYER + "ffn.down", False),
    ),
    has_other_tensors=_has_outputs_first,
    fields={
        **FAMILY.fields,
        "num_kv_heads": ("num_key_value_heads", 16),
        "context_length": ("max_position_embeddings", 128000),
    },
    moe_fields={
        "num_experts": (NUM_EXPERTS, 60),
        "experts_per_token": ("num_experts_per_tok", 4),
        "ffn_dim": ("moe_intermediate_size", 1408),
        "normalize_weights": ("norm_topk_prob", True),
    },
    supported_values={"norm_topk_prob": (True,)},
    layer_rules=replace(qwen3.VL.layer_rules, adjust=adjust_layer),
)
