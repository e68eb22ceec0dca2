"""Mixtral (2401.04088): Mistral with a mixture of experts in every layer."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, MoEConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import ATTENTION, ENDS, FIELDS, LAYER, OWN, PRE_NORMS
from adapt_jax.decoders.rope import Rope


def derived(hf: HF) -> HF:
    """The shape of the mixture."""
    count, per_token = hf.get("num_local_experts", 8), hf.get("num_experts_per_tok", 2)
    return {"moe": MoEConfig(count, per_token, hf["intermediate_size"])}


def spelled(config: DecoderConfig) -> HF:
    """The mixture in the words of ``config.json``."""
    assert config.moe is not None
    count, per_token = config.moe.num_experts, config.moe.experts_per_token
    return {"num_local_experts": count, "num_experts_per_tok": per_token}


FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    tensors=(
        *ENDS,
        *ATTENTION,
        *PRE_NORMS,
        (LAYER + "block_sparse_moe.gate.weight", OWN + "ffn.router", False),
        (LAYER + "block_sparse_moe.experts.{e}.w1.weight", OWN + "ffn.gate", True),
        (LAYER + "block_sparse_moe.experts.{e}.w3.weight", OWN + "ffn.up", True),
        (LAYER + "block_sparse_moe.experts.{e}.w2.weight", OWN + "ffn.down", True),
    ),
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
    },
    derived=derived,
    spelled=spelled,
    layers=Layers(
        rope=Rope(theta=1e6),
        window=lambda hf: hf.get("sliding_window"),
        change=lambda hf, layer, kind: replace(kind, is_moe=True),
    ),
)
