"""Command R7B and Command A (2504.00698): parallel residuals, full layers without positions."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, TENSORS, default_head_dim
from adapt_jax.decoders.rope import Rope


def read_logit_divisor(hf: HFConfig) -> float:
    """The divisor of logits.

    Raises:
        ValueError: their scale is null.
    """
    scale = hf.get("logit_scale", 0.0625)
    if scale is None:
        raise ValueError("logit_scale: expected a number, found null")
    return float(1 / scale)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The head size, and the divisor of logits."""
    return {"head_dim": default_head_dim(hf), "logit_divisor": read_logit_divisor(hf)}


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The scale of logits."""
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
    fixed_fields={"norm": "layer", "residual": "parallel_shared"},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope(interleaved=True),
        window=lambda hf: hf.get("sliding_window", 4096),
        is_sliding=lambda hf, index: (index + 1) % hf.get("sliding_window_pattern", 4) != 0,
        adjust=lambda hf, index, layer: layer if layer.window else replace(layer, rope=None),
    ),
)
