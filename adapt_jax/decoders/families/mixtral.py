"""Mixtral (2401.04088): Mistral with a mixture of experts in every layer."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, MoEConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
)
from adapt_jax.decoders.rope import Rope


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The mixture of experts."""
    count, per_token = hf.get("num_local_experts", 8), hf.get("num_experts_per_tok", 2)
    return {"moe": MoEConfig(count, per_token, hf["intermediate_size"])}


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The number of experts, and of those that a token passes."""
    assert config.moe is not None
    count, per_token = config.moe.num_experts, config.moe.experts_per_token
    return {"num_local_experts": count, "num_experts_per_tok": per_token}


FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        (HF_LAYER + "block_sparse_moe.gate.weight", LAYER + "ffn.router", False),
        (HF_LAYER + "block_sparse_moe.experts.{e}.w1.weight", LAYER + "ffn.gate", True),
        (HF_LAYER + "block_sparse_moe.experts.{e}.w3.weight", LAYER + "ffn.up", True),
        (HF_LAYER + "block_sparse_moe.experts.{e}.w2.weight", LAYER + "ffn.down", True),
    ),
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope(theta=1e6),
        window=lambda hf: hf.get("sliding_window"),
        adjust=lambda hf, index, layer: replace(layer, is_moe=True),
    ),
)
