"""GLM-4 (0414): pre- and post-norms, half of each head rotated, neighbouring features as pairs.

The text decoder inside GLM-4.1V (2507.01006) has other defaults.
"""

from dataclasses import replace

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
    default_head_dim,
    norm,
)
from adapt_jax.decoders.rope import Rope

FAMILY = Family(
    architecture="Glm4ForCausalLM",
    model_type="glm4",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        *norm(HF_LAYER + "post_self_attn_layernorm", LAYER + "attention_post_norm"),
        *norm(HF_LAYER + "post_mlp_layernorm", LAYER + "ffn_post_norm"),
        (
            HF_LAYER + "mlp.gate_up_proj.weight",
            (LAYER + "ffn.gate.kernel", LAYER + "ffn.up.kernel"),
            False,
        ),
        (HF_LAYER + "mlp.down_proj.weight", LAYER + "ffn.down.kernel", False),
    ),
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 2),
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1.5625e-7),
        "qkv_bias": ("attention_bias", True),
        "bos_id": ("bos_token_id", None),
        "eos_ids": ("eos_token_id", lambda hf: [151329, 151336, 151338]),
        "pad_id": ("pad_token_id", 151329),
    },
    fixed_fields={"post_norm": True},
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.5, interleaved=True),
        partial_rotary_field="partial_rotary_factor",
    ),
)
VL = replace(
    FAMILY,
    model_type="glm4v_text",
    fields={
        **{key: FAMILY.fields[key] for key in FAMILY.fields if key != "qkv_bias"},
        "head_dim": ("head_dim", default_head_dim),
        "context_length": ("max_position_embeddings", 32768),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "eos_ids": ("eos_token_id", None),
        "pad_id": ("pad_token_id", None),
    },
    fixed_fields={"post_norm": True, "qkv_bias": True},
    layer_rules=LayerRules(
        rope=Rope(interleaved=True),
        partial_rotary_field="partial_rotary_factor",
        rope_type_aliases={"mrope": "default"},
    ),
)
