"""Qwen2 and Qwen2.5 (2407.10671): biases on queries, keys and values only."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, NO_BOS_AND_EOS, TENSORS

LAYER_RULES = LayerRules(
    window=lambda hf: hf.get("sliding_window", 4096) if hf.get("use_sliding_window") else None,
    is_sliding=lambda hf, index: bool(
        hf.get("use_sliding_window") and index >= hf.get("max_window_layers", 28)
    ),
)


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """Whether layers slide, and from which one on (as transformers 4 writes it)."""
    sliding = [config.layer_config(n).window is not None for n in range(config.num_layers)]
    first = sliding.index(True) if True in sliding else config.num_layers
    return {"use_sliding_window": True in sliding, "max_window_layers": first}


FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    tensors=TENSORS,
    fields={
        **FIELDS,
        **NO_BOS_AND_EOS,
        "num_kv_heads": ("num_key_value_heads", 32),
        "context_length": ("max_position_embeddings", 32768),
    },
    fixed_fields={"qkv_bias": True},
    layer_rules=LAYER_RULES,
    extra_hf_fields=_extra_hf_fields,
)
