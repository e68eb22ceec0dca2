"""Qwen3 (2505.09388): QK-norm of each head. The text decoder inside Qwen3-VL never slides."""

from dataclasses import replace

from adapt_jax.decoders.families import qwen2
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import ATTENTION_BIAS
from adapt_jax.decoders.rope import Rope

FAMILY = replace(
    qwen2.FAMILY,
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    fields={**qwen2.FAMILY.fields, **ATTENTION_BIAS, "head_dim": ("head_dim", 128)},
    fixed_fields={"qk_norm": "head"},
)
VL = replace(
    FAMILY,
    model_type="qwen3_vl_text",
    fields={**FAMILY.fields, "context_length": ("max_position_embeddings", 128000)},
    layer_rules=LayerRules(rope=Rope(theta=5e5), rope_type_aliases={"mrope": "default"}),
)
