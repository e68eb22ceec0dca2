"""What the families with multi-head latent attention share: DeepSeek's names and fields."""

import math
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LatentAttentionConfig
from adapt_jax.decoders.families.family import TensorRow
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, norm, projection

__all__ = ["LATENT_ATTENTION", "read_latent_attention", "write_latent_attention"]

HF_ATTENTION, HERE = HF_LAYER + "self_attn.", LAYER + "attention."
LATENT_ATTENTION: tuple[TensorRow, ...] = (
    *projection(HF_ATTENTION + "q_proj", HERE + "query"),
    *projection(HF_ATTENTION + "q_a_proj", HERE + "query_down"),
    *norm(HF_ATTENTION + "q_a_layernorm", HERE + "query_norm"),
    *projection(HF_ATTENTION + "q_b_proj", HERE + "query_up"),
    *projection(HF_ATTENTION + "kv_a_proj_with_mqa", HERE + "kv_down"),
    *norm(HF_ATTENTION + "kv_a_layernorm", HERE + "kv_norm"),
    *projection(HF_ATTENTION + "kv_b_proj", HERE + "kv_up"),
    *projection(HF_ATTENTION + "o_proj", HERE + "output"),
)


def read_latent_attention(
    hf: HFConfig, kv_rank: int, query_rank: int, nope_dim: int, rope_dim: int, value_dim: int
) -> dict[str, Any]:
    """``latent_attention`` and ``attention_scale`` of DecoderConfig; the sizes are the defaults.

    Raises:
        ValueError: ``mscale_all_dim`` without YaRN.
    """
    given = hf.get("v_head_dim")
    latent = LatentAttentionConfig(
        kv_rank=hf.get("kv_lora_rank", kv_rank),
        query_rank=hf.get("q_lora_rank", query_rank),
        nope_dim=hf.get("qk_nope_head_dim", nope_dim),
        value_dim=value_dim if given is None else given,
    )
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    mscale = rope.get("mscale_all_dim") or 0
    if rope_type == "default" or not mscale:
        return {"latent_attention": latent}
    if rope_type != "yarn":
        raise ValueError(f"mscale_all_dim is not supported with rope_type {rope_type!r}")
    # YaRN scales queries and keys, here also their parts without positions
    factor = rope["factor"]
    scaling = 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
    query_head_dim = latent.nope_dim + hf.get("qk_rope_head_dim", rope_dim)
    return {"latent_attention": latent, "attention_scale": query_head_dim**-0.5 * scaling**2}


def write_latent_attention(config: DecoderConfig) -> dict[str, Any]:
    """The fields of ``config.json`` that ``read_latent_attention`` reads besides the rope's."""
    latent = config.latent_attention
    assert latent is not None
    return {
        "kv_lora_rank": latent.kv_rank,
        "q_lora_rank": latent.query_rank,
        "qk_nope_head_dim": latent.nope_dim,
        "v_head_dim": latent.value_dim,
    }
