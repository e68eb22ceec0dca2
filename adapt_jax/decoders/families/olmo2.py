"""OLMo 2 (2501.00656): norms after each part only; QK-norm over the whole projection."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    GATED_FFN,
    POST_NORMS,
)

FAMILY = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    tensors=(*EMBEDDING_AND_OUTPUT, *ATTENTION, *GATED_FFN, *POST_NORMS),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "norm_eps": ("rms_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", None),
        "eos_ids": ("eos_token_id", 50279),
        "pad_id": ("pad_token_id", 1),
    },
    fixed_fields={"pre_norm": False, "post_norm": True, "qk_norm": "projection"},
)
