"""Seed-OSS (ByteDance): Llama with biases on queries, keys and values."""

from dataclasses import replace

from adapt_jax.decoders.families import llama

FAMILY = replace(
    llama.FAMILY,
    architecture="SeedOssForCausalLM",
    model_type="seed_oss",
    fields={
        **llama.FAMILY.fields,
        "num_kv_heads": ("num_key_value_heads", 8),
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 524288),
        "bos_id": ("bos_token_id", 0),
        "pad_id": ("pad_token_id", 1),
        "qkv_bias": ("attention_bias", True),
        "output_bias": ("attention_out_bias", False),
    },
)
