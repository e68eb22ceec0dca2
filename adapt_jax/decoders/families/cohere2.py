"""Command R7B and A (2504.00698): parallel residuals; full layers know no positions."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, TENSORS, even_share
from adapt_jax.decoders.rope import Rope


def derived(hf: HF) -> HF:
    """Heads share the hidden size out; the scale of logits."""
    return {"head_dim": even_share(hf), "logit_divisor": 1 / hf.get("logit_scale", 0.0625)}


def spelled(config: DecoderConfig) -> HF:
    """The scale in the words of ``config.json``."""
    return {"logit_scale": 1 / config.logit_divisor}


FAMILY = Family(
    architecture="Cohere2ForCausalLM",
    model_type="cohere2",
    tensors=TENSORS,
    fields={
        **{key: FIELDS[key] for key in FIELDS if key != "head_dim"},
        **ATTENTION_BIAS,
        "context_length": ("max_position_embeddings", 8192),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 5),
        "eos_ids": ("eos_token_id", 255001),
        "pad_id": ("pad_token_id", 0),
    },
    fixed={"norm": "layer", "residual": "parallel_shared"},
    derived=derived,
    spelled=spelled,
    layers=Layers(
        rope=Rope(interleaved=True),
        window=lambda hf: hf.get("sliding_window", 4096),
        slides=lambda hf, layer: (layer + 1) % hf.get("sliding_window_pattern", 4) != 0,
        change=lambda hf, layer, kind: replace(kind, rope=None) if kind.window is None else kind,
    ),
)
