"""Granite 3 (IBM): Llama with four multipliers."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, MLP_BIAS, TENSORS

FAMILY = Family(
    architecture="GraniteForCausalLM",
    model_type="granite",
    tensors=TENSORS,
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **MLP_BIAS,
        "input_scale": ("embedding_multiplier", 1.0),
        "residual_scale": ("residual_multiplier", 1.0),
        "attention_scale": ("attention_multiplier", 1.0),
        "logit_divisor": ("logits_scaling", 1.0),
    },
)
