"""Helium 1 (Kyutai, 2025): Llama whose rotary pairs are neighbouring features."""

from dataclasses import replace

from adapt_jax.decoders.families import llama
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.rope import Rope

FAMILY = replace(
    llama.FAMILY,
    architecture="HeliumForCausalLM",
    model_type="helium",
    fields={
        **{key: llama.FAMILY.fields[key] for key in llama.FAMILY.fields if key != "output_bias"},
        "num_kv_heads": ("num_key_value_heads", 20),
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 4096),
        "norm_eps": ("rms_norm_eps", 1e-8),
        "pad_id": ("pad_token_id", 3),
    },
    layer_rules=LayerRules(rope=Rope(theta=1e5, interleaved=True)),
)
