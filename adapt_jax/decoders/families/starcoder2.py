"""StarCoder2 (2402.19173): layer norms and biases everywhere, an ungated feed-forward layer."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
    projection,
)

FAMILY = Family(
    architecture="Starcoder2ForCausalLM",
    model_type="starcoder2",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        *projection(HF_LAYER + "mlp.c_fc", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.c_proj", LAYER + "ffn.down"),
    ),
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 2),
        "context_length": ("max_position_embeddings", 4096),
        "activation": ("hidden_act", "gelu_pytorch_tanh"),
        "norm_eps": ("norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 50256),
        "eos_ids": ("eos_token_id", 50256),
        "qkv_bias": ("use_bias", True),
        "output_bias": ("use_bias", True),
        "mlp_bias": ("use_bias", True),
    },
    fixed_fields={"norm": "layer", "norm_bias": True, "gated": False},
    layer_rules=LayerRules(window=lambda hf: hf.get("sliding_window")),
)
