"""Persimmon-8B (Adept, 2023): GPT-NeoX with sequential residuals, QK-norm and squared ReLU."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
    norm,
    projection,
)
from adapt_jax.decoders.rope import Rope

QKV = tuple(f"{LAYER}attention.{name}" for name in ("query", "key", "value"))
FUSED = HF_LAYER + "self_attn.query_key_value."

FAMILY = Family(
    architecture="PersimmonForCausalLM",
    model_type="persimmon",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *norm("model.final_layernorm", "norm"),
        *PRE_NORMS,
        # One group for each head: its query, key and value.
        (FUSED + "weight", tuple(f"{part}.kernel" for part in QKV), False, "num_heads"),
        (FUSED + "bias", tuple(f"{part}.bias" for part in QKV), False, "num_heads"),
        *projection(HF_LAYER + "self_attn.dense", LAYER + "attention.output"),
        *norm(HF_LAYER + "self_attn.q_layernorm", LAYER + "attention.query_norm"),
        *norm(HF_LAYER + "self_attn.k_layernorm", LAYER + "attention.key_norm"),
        *projection(HF_LAYER + "mlp.dense_h_to_4h", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.dense_4h_to_h", LAYER + "ffn.down"),
    ),
    fields={
        **{key: FIELDS[key] for key in FIELDS if key not in ("num_kv_heads", "head_dim")},
        "context_length": ("max_position_embeddings", 16384),
        "activation": ("hidden_act", "relu2"),
        "norm_eps": ("layer_norm_eps", 1e-5),
    },
    fixed_fields={
        "norm": "layer",
        "norm_bias": True,
        "gated": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    computed_fields=lambda hf: {
        "num_kv_heads": hf["num_attention_heads"],
        "head_dim": hf["hidden_size"] // hf["num_attention_heads"],
        "qk_norm": "head" if hf.get("qk_layernorm", True) else None,
    },
    extra_hf_fields=lambda config: {"qk_layernorm": config.qk_norm is not None},
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.5), partial_rotary_field="partial_rotary_factor"
    ),
)
