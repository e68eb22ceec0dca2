"""Bamba (IBM, 2024): Mamba 2 in most layers, attention with half-rotated heads in the others."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import falcon_h1, granitemoehybrid
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.rope import Rope


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Attention in the layers that ``attn_layer_indices`` names."""
    if index in (hf.get("attn_layer_indices") or ()):
        return layer
    return replace(layer, rope=None, has_attention=False, has_state=True)


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """Which layers attend, and the shape of Mamba."""
    layers = range(config.num_layers)
    return {
        "attn_layer_indices": [n for n in layers if config.layer_config(n).has_attention],
        **granitemoehybrid.write_mamba(config),
    }


FAMILY = Family(
    architecture="BambaForCausalLM",
    model_type="bamba",
    tensors=falcon_h1.FAMILY.tensors,
    fields={
        **{key: row for key, row in falcon_h1.FAMILY.fields.items() if key != "embedding_scale"},
        "context_length": ("max_position_embeddings", 262144),
    },
    computed_fields=lambda hf: {"mixer": granitemoehybrid.read_mamba(hf)},
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.5),
        partial_rotary_field="partial_rotary_factor",
        adjust=_adjust_layer,
    ),
)
