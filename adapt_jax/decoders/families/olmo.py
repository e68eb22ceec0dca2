"""OLMo 1 (2402.00838): layer norms without parameters; queries, keys and values are clipped."""

from dataclasses import replace

from adapt_jax.decoders.families import llama
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS

FAMILY = replace(
    llama.FAMILY,
    architecture="OlmoForCausalLM",
    model_type="olmo",
    fields={
        **{key: FIELDS[key] for key in FIELDS if key != "norm_eps"},
        **ATTENTION_BIAS,
        "qkv_clip": ("clip_qkv", None),
        "bos_id": ("bos_token_id", None),
        "eos_ids": ("eos_token_id", 50279),
        "pad_id": ("pad_token_id", 1),
    },
    fixed_fields={"norm": "layer", "norm_scale": False},
)
