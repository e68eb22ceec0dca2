"""gpt-oss (2508.10925): attention sinks, and experts with biases and a clamped SwiGLU."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.experts import give_all_layers_experts
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    NO_BOS_AND_EOS,
    PRE_NORMS,
)
from adapt_jax.decoders.rope import Rope

MLP, FFN = HF_LAYER + "mlp.", LAYER + "ffn."
YARN = (
    ("beta_fast", 32.0),
    ("beta_slow", 1.0),
    ("factor", 32.0),
    ("original_max_position_embeddings", 4096),
    ("truncate", False),
)


def _computed_moe_fields(hf: HFConfig) -> HFConfig:
    """The constants of the clamped SwiGLU."""
    return {"swiglu_clamp": (hf.get("swiglu_alpha", 1.702), hf.get("swiglu_limit", 7.0))}


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The constants of the clamped SwiGLU."""
    assert config.moe is not None and config.moe.swiglu_clamp is not None
    return dict(zip(("swiglu_alpha", "swiglu_limit"), config.moe.swiglu_clamp, strict=True))


FAMILY = Family(
    architecture="GptOssForCausalLM",
    model_type="gpt_oss",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        (HF_LAYER + "self_attn.sinks", LAYER + "attention.sinks", False),
        (MLP + "router.weight", FFN + "router", False),
        (MLP + "router.bias", FFN + "router_bias", False),
        # a group for each gate: gates and up projections alternate
        (MLP + "experts.gate_up_proj", (FFN + "gate", FFN + "up"), False, "ffn_dim"),
        (MLP + "experts.gate_up_proj_bias", (FFN + "gate_bias", FFN + "up_bias"), False, "ffn_dim"),
        (MLP + "experts.down_proj", FFN + "down", False),
        (MLP + "experts.down_proj_bias", FFN + "down_bias", False),
    ),
    fields={
        **FIELDS,
        **NO_BOS_AND_EOS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "head_dim": ("head_dim", 64),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "qkv_bias": ("attention_bias", True),
        "output_bias": ("attention_bias", True),
    },
    fixed_fields={"attention_sinks": True},
    supported_values={"hidden_act": ("silu",)},
    moe_fields={
        "num_experts": ("num_local_experts", 128),
        "experts_per_token": (("num_experts_per_tok", "experts_per_token"), 4),
        "ffn_dim": ("intermediate_size", REQUIRED),
    },
    fixed_moe_fields={"router_bias": True, "expert_bias": True},
    computed_moe_fields=_computed_moe_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope("yarn", theta=150_000.0, params=YARN),
        window=lambda hf: hf.get("sliding_window", 128),
        is_sliding=lambda hf, index: index % 2 == 0,
        adjust=give_all_layers_experts,
    ),
)
