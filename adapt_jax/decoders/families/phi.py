"""Phi-1 to Phi-2 (2309.05463): parallel residuals, biases everywhere, half-rotated heads."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    norm,
    projection,
)
from adapt_jax.decoders.rope import Rope

FAMILY = Family(
    architecture="PhiForCausalLM",
    model_type="phi",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *norm("model.final_layernorm", "norm"),
        ("lm_head.bias", "output.bias", False),
        *ATTENTION,
        *projection(HF_LAYER + "self_attn.dense", LAYER + "attention.output"),
        *norm(HF_LAYER + "self_attn.q_layernorm", LAYER + "attention.query_norm"),
        *norm(HF_LAYER + "self_attn.k_layernorm", LAYER + "attention.key_norm"),
        *norm(HF_LAYER + "input_layernorm", LAYER + "attention_norm"),
        *projection(HF_LAYER + "mlp.fc1", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.fc2", LAYER + "ffn.down"),
    ),
    fields={
        **FIELDS,
        "activation": ("hidden_act", "gelu_new"),
        "norm_eps": ("layer_norm_eps", 1e-5),
    },
    fixed_fields={
        "norm": "layer",
        "norm_bias": True,
        "residual": "parallel_shared",
        "gated": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "lm_head_bias": True,
    },
    computed_fields=lambda hf: {"qk_norm": "head" if hf.get("qk_layernorm") else None},
    extra_hf_fields=lambda config: {"qk_layernorm": config.qk_norm is not None},
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.5), partial_rotary_field="partial_rotary_factor"
    ),
)
