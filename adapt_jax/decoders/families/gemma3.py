"""Gemma 3 (2503.19786), text: QK-norm, five sliding layers to a full one, two thetas.

A multimodal checkpoint is read without its vision tower, and written as a text decoder.
"""

from dataclasses import replace

from adapt_jax.decoders.families import gemma2
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import MULTIMODAL
from adapt_jax.decoders.rope import Rope

FAMILY = replace(
    gemma2.FAMILY,
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    fields={
        **{key: gemma2.FAMILY.fields[key] for key in gemma2.FAMILY.fields if "softcap" not in key},
        "context_length": ("max_position_embeddings", 131072),
        "logit_softcap": ("final_logit_softcapping", None),
    },
    fixed_fields={"norm": "rms_plus_one", "post_norm": True, "qk_norm": "head"},
    supported_values={**gemma2.FAMILY.supported_values, "attn_logit_softcapping": (None,)},
    layer_rules=LayerRules(
        rope=Rope(theta=1e6),
        sliding_rope=Rope(theta=1e4),
        sliding_theta_field="rope_local_base_freq",
        window=lambda hf: hf.get("sliding_window", 4096),
        is_sliding=lambda hf, index: (index + 1) % hf.get("sliding_window_pattern", 6) != 0,
    ),
    **MULTIMODAL,
)
