"""GLM-4 (0414): pre- and post-norms, half of each head rotated, neighbouring features as pairs."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
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
