"""Qwen3 (2505.09388): QK-norm of each head."""

from dataclasses import replace

from adapt_jax.decoders.families import qwen2
from adapt_jax.decoders.families.tables import ATTENTION_BIAS

FAMILY = replace(
    qwen2.FAMILY,
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    fields={**qwen2.FAMILY.fields, **ATTENTION_BIAS, "head_dim": ("head_dim", 128)},
    fixed_fields={"qk_norm": "head"},
)
