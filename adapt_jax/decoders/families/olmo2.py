"""OLMo 2 (2501.00656): norms after each part only, and over whole queries and keys."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    ENDS,
    FIELDS,
    GATED,
    POST_NORMS,
)

FAMILY = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    tensors=(*ENDS, *ATTENTION, *GATED, *POST_NORMS),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "norm_eps": ("rms_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", None),
        "eos_ids": ("eos_token_id", 50279),
        "pad_id": ("pad_token_id", 1),
    },
    fixed={"pre_norm": False, "post_norm": True, "qk_norm": "projection"},
)
