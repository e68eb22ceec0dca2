"""Mistral (2310.06825), and Ministral, where full and sliding attention alternate."""

from dataclasses import replace

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import FIELDS, MULTIMODAL, TENSORS

FAMILY = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    tensors=TENSORS,
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 131072),
    },
    layer_rules=LayerRules(window=lambda hf: hf.get("sliding_window", 4096)),
    **MULTIMODAL,
)
MINISTRAL = replace(
    FAMILY,
    architecture="MinistralForCausalLM",
    model_type="ministral",
    layer_rules=LayerRules(
        window=lambda hf: hf.get("sliding_window", 4096), is_sliding=lambda hf, index: True
    ),
)
