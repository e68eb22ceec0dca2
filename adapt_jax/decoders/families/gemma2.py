"""Gemma 2 (2408.00118): pre- and post-norms, soft-capping, every other layer slides."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import gemma
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    GATED_FFN,
    HF_LAYER,
    LAYER,
    POST_NORMS,
    norm,
)

TENSORS = (
    *EMBEDDING_AND_OUTPUT,
    *ATTENTION,
    *GATED_FFN,
    *POST_NORMS,
    *norm(HF_LAYER + "input_layernorm", LAYER + "attention_norm"),
    *norm(HF_LAYER + "pre_feedforward_layernorm", LAYER + "ffn_norm"),
)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The scales of embeddings and of attention scores."""
    return {
        "embedding_scale": hf["hidden_size"] ** 0.5,
        "attention_scale": hf.get("query_pre_attn_scalar", 256) ** -0.5,
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The scale of attention scores."""
    scale = config.attention_scale or config.head_dim**-0.5
    return {"query_pre_attn_scalar": round(scale**-2)}


FAMILY = Family(
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    tensors=TENSORS,
    fields={
        **gemma.FAMILY.fields,
        "num_kv_heads": ("num_key_value_heads", 4),
        "activation": ("hidden_activation", "gelu_pytorch_tanh"),
        "attention_softcap": ("attn_logit_softcapping", 50.0),
        "logit_softcap": ("final_logit_softcapping", 30.0),
    },
    fixed_fields={"norm": "rms_plus_one", "post_norm": True},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={"use_bidirectional_attention": (None, False)},
    layer_rules=LayerRules(
        window=lambda hf: hf.get("sliding_window", 4096),
        is_sliding=lambda hf, index: index % 2 == 0,
    ),
)
