"""Youtu-LLM (2512.24618): dense layers with DeepSeek-V3's attention."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import deepseek
from adapt_jax.decoders.families.latent import LATENT_ATTENTION, write_latent_attention
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import EMBEDDING_AND_OUTPUT, GATED_FFN, PRE_NORMS


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The sizes of the attention, and which features are rotated together."""
    rope = config.layer_config(0).rope
    assert rope is not None
    return {**write_latent_attention(config), "rope_interleave": rope.interleaved}


FAMILY = replace(
    deepseek.V3,
    architecture="YoutuForCausalLM",
    model_type="youtu",
    tensors=(*EMBEDDING_AND_OUTPUT, *LATENT_ATTENTION, *GATED_FFN, *PRE_NORMS),
    other_tensors=(),
    fields={
        **deepseek.V3.fields,
        "num_kv_heads": ("num_key_value_heads", 16),
        "context_length": ("max_position_embeddings", 131072),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 128000),
        "eos_ids": ("eos_token_id", 128001),
    },
    moe_fields={},
    fixed_moe_fields={},
    extra_hf_fields=_extra_hf_fields,
    supported_values={},
    layer_rules=LayerRules(adjust=lambda hf, index, layer: deepseek.choose_rope_pairs(hf, layer)),
)
