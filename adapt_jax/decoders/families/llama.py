"""Llama 2 and 3, and all other ``LlamaForCausalLM`` (2307.09288, 2407.21783)."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, MLP_BIAS, TENSORS

FAMILY = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    tensors=TENSORS,
    fields={**FIELDS, **ATTENTION_BIAS, **MLP_BIAS},
)
