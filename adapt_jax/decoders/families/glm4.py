"""GLM-4 (0414): norms before and after, half of each head turned, neighbours as pairs."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import Layers
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ENDS,
    FIELDS,
    LAYER,
    OWN,
    PRE_NORMS,
    norm,
)
from adapt_jax.decoders.rope import Rope

FAMILY = Family(
    architecture="Glm4ForCausalLM",
    model_type="glm4",
    tensors=(
        *ENDS,
        *ATTENTION,
        *PRE_NORMS,
        *norm(LAYER + "post_self_attn_layernorm", OWN + "attention_post_norm"),
        *norm(LAYER + "post_mlp_layernorm", OWN + "ffn_post_norm"),
        (
            LAYER + "mlp.gate_up_proj.weight",
            (OWN + "ffn.gate.kernel", OWN + "ffn.up.kernel"),
            False,
        ),
        (LAYER + "mlp.down_proj.weight", OWN + "ffn.down.kernel", False),
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
    fixed={"post_norm": True},
    layers=Layers(rope=Rope(fraction=0.5, interleaved=True), fraction="partial_rotary_factor"),
)
