"""Hunyuan 0.5B to 7B (Tencent, 2025): Llama with norms of queries and keys after rotation."""

from dataclasses import replace

from adapt_jax.decoders.config import LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION_BIAS,
    FIELDS,
    HF_LAYER,
    LAYER,
    TENSORS,
    default_head_dim,
    norm,
)
from adapt_jax.decoders.rope import Rope


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """A dynamic rope with a fixed ``alpha`` depends on no length: it has a greater theta."""
    alpha = (hf.get("rope_scaling") or hf.get("rope_parameters") or {}).get("alpha")
    if layer.rope is None or layer.rope.rope_type != "dynamic" or not alpha:
        return layer
    size = hf.get("head_dim") or default_head_dim(hf)
    return replace(layer, rope=Rope(theta=layer.rope.theta * alpha ** (size / (size - 2))))


FAMILY = Family(
    architecture="HunYuanDenseV1ForCausalLM",
    model_type="hunyuan_v1_dense",
    tensors=(
        *TENSORS,
        *norm(HF_LAYER + "self_attn.query_layernorm", LAYER + "attention.query_norm"),
        *norm(HF_LAYER + "self_attn.key_layernorm", LAYER + "attention.key_norm"),
    ),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "norm_eps": ("rms_norm_eps", 1e-5),
        "pad_id": ("pad_token_id", 0),
    },
    fixed_fields={"qk_norm": "head", "qk_norm_after_rope": True},
    supported_values={"use_qk_norm": (True,), "use_cla": (False, None), "mlp_bias": (False,)},
    layer_rules=LayerRules(adjust=_adjust_layer),
)
