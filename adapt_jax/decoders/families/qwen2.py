"""Qwen2 and Qwen2.5 (2407.10671): biases on queries, keys and values only."""

from typing import Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import FIELDS, NO_IDS, TENSORS

LAYERS = Layers(
    window=lambda hf: hf.get("sliding_window", 4096) if hf.get("use_sliding_window") else None,
    slides=lambda hf, layer: bool(
        hf.get("use_sliding_window") and layer >= hf.get("max_window_layers", 28)
    ),
)


def spelled(config: DecoderConfig) -> HF:
    """Whether layers slide, and from which on (in the spelling of transformers 4)."""
    slides = [config.layer_config(n).window is not None for n in range(config.num_layers)]
    first: Any = slides.index(True) if True in slides else config.num_layers
    return {"use_sliding_window": True in slides, "max_window_layers": first}


FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    tensors=TENSORS,
    fields={
        **FIELDS,
        **NO_IDS,
        "num_kv_heads": ("num_key_value_heads", 32),
        "context_length": ("max_position_embeddings", 32768),
    },
    fixed={"qkv_bias": True},
    layers=LAYERS,
    spelled=spelled,
)
