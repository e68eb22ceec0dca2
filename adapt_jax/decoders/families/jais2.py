"""Jais 2 (Inception, 2025): Llama with layer norms and biases; squared ReLU, ungated."""

from dataclasses import replace

from adapt_jax.decoders.families import arcee

FAMILY = replace(
    arcee.FAMILY,
    architecture="Jais2ForCausalLM",
    model_type="jais2",
    fields={
        **arcee.FAMILY.fields,
        "context_length": ("max_position_embeddings", 8192),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "qkv_bias": ("attention_bias", True),
        "output_bias": ("attention_bias", True),
        "mlp_bias": ("mlp_bias", True),
        "bos_id": ("bos_token_id", 0),
        "eos_ids": ("eos_token_id", 150024),
    },
    fixed_fields={"norm": "layer", "norm_bias": True, "gated": False},
)
