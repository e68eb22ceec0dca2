"""MiniCPM3: dense layers with multi-head latent attention, scaled as MiniCPM is (2404.06395)."""

import math

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.latent import (
    LATENT_ATTENTION,
    read_latent_attention,
    write_latent_attention,
)
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import (
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    GATED_FFN,
    MLP_BIAS,
    PRE_NORMS,
    default_head_dim,
)

SIZES = {"kv_rank": 256, "query_rank": 768, "nope_dim": 64, "rope_dim": 32}


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The attention, and the scales of residuals and logits."""
    depth, base = hf.get("scale_depth", 1.4), hf.get("dim_model_base", 256)
    return {
        **read_latent_attention(hf, **SIZES, value_dim=default_head_dim(hf)),
        "residual_scale": 1.0 if depth is None else depth / math.sqrt(hf["num_hidden_layers"]),
        "logit_divisor": 1.0 if base is None else hf["hidden_size"] / base,
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The fields of ``config.json`` that no table writes."""
    return {
        **write_latent_attention(config),
        "scale_depth": _undo_division(config.residual_scale, math.sqrt(config.num_layers)),
        "dim_model_base": round(config.embed_dim / config.logit_divisor),
    }


def _undo_division(quotient: float, divisor: float) -> float:
    """The number of which this is the quotient, rounding included; the shortest of several."""
    product = quotient * divisor
    near = (float(f"{product:.15g}"), product, *(math.nextafter(product, x) for x in (-1e9, 1e9)))
    return next((number for number in near if number / divisor == quotient), product)


FAMILY = Family(
    architecture="MiniCPM3ForCausalLM",
    model_type="minicpm3",
    tensors=(*EMBEDDING_AND_OUTPUT, *LATENT_ATTENTION, *GATED_FFN, *PRE_NORMS),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **MLP_BIAS,
        "head_dim": ("qk_rope_head_dim", 32),
        "num_kv_heads": ("num_key_value_heads", 40),
        "context_length": ("max_position_embeddings", 32768),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "embedding_scale": ("scale_emb", 12),
        "tie_embeddings": ("tie_word_embeddings", True),
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
)
