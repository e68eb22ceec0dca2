"""Qwen2 and Qwen2.5 (2407.10671): biases on queries, keys and values only.

The text decoders inside Qwen2-VL and Qwen2.5-VL (2409.12191, 2502.13923) have other defaults.
"""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, NO_BOS_AND_EOS, TENSORS
from adapt_jax.decoders.rope import Rope

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
VL = replace(
    FAMILY,
    model_type="qwen2_vl_text",
    fields={
        **FAMILY.fields,
        "num_kv_heads": ("num_key_value_heads", 8),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 151643),
        "eos_ids": ("eos_token_id", 151645),
    },
    layer_rules=replace(LAYER_RULES, rope=Rope(theta=1e6), rope_type_aliases={"mrope": "default"}),
)
VL_2_5 = replace(VL, model_type="qwen2_5_vl_text")
