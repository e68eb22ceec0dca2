"""Hunyuan-A13B (Tencent, 2025): Hunyuan with experts beside a shared one in every layer."""

from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import hunyuan_v1_dense
from adapt_jax.decoders.families.experts import (
    EXPERTS,
    FUSED_EXPERTS,
    give_all_layers_experts,
    shared_expert,
)
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER

TOP_K = ("moe_topk", "num_experts_per_tok")
DENSE = hunyuan_v1_dense.FAMILY


def _computed_moe_fields(hf: HFConfig) -> HFConfig:
    """How many experts a token passes; the shared one is as wide as the others.

    Raises:
        ValueError: layers differ.
    """
    value = next((hf[name] for name in TOP_K if hf.get(name) is not None), 1)
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise ValueError("moe_topk differs between layers, which is not supported")
    return {"experts_per_token": values.pop(), "shared_ffn_dim": hf["intermediate_size"]}


def _extra_hf_fields(config: DecoderConfig) -> dict[str, Any]:
    """How many experts a token passes."""
    assert config.moe is not None
    return {"moe_topk": config.moe.experts_per_token}


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Layers of the dense family, whose feed-forward layers are experts."""
    return give_all_layers_experts(hf, index, DENSE.layer_rules.adjust(hf, index, layer))


FAMILY = Family(
    architecture="HunYuanMoEV1ForCausalLM",
    model_type="hunyuan_v1_moe",
    tensors=(
        *DENSE.tensors,
        (HF_LAYER + "mlp.gate.wg.weight", LAYER + "ffn.router", False),
        *EXPERTS,
        *shared_expert("mlp.shared_mlp"),
    ),
    other_tensors=FUSED_EXPERTS,
    fields=DENSE.fields,
    fixed_fields=DENSE.fixed_fields,
    supported_values=DENSE.supported_values,
    moe_fields={
        "num_experts": (("num_experts", "num_local_experts"), 1),
        "ffn_dim": ("intermediate_size", REQUIRED),
    },
    computed_moe_fields=_computed_moe_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(adjust=_adjust_layer),
)
