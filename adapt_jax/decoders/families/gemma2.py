"""Gemma 2 (2408.00118): norms before and after, soft-capping, every other layer slides."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import gemma
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ENDS,
    GATED,
    LAYER,
    OWN,
    POST_NORMS,
    norm,
)

TENSORS = (
    *ENDS,
    *ATTENTION,
    *GATED,
    *POST_NORMS,
    *norm(LAYER + "input_layernorm", OWN + "attention_norm"),
    *norm(LAYER + "pre_feedforward_layernorm", OWN + "ffn_norm"),
)


def derived(hf: HF) -> HF:
    """The scales of embeddings and of attention scores."""
    return {
        "embedding_scale": hf["hidden_size"] ** 0.5,
        "attention_scale": hf.get("query_pre_attn_scalar", 256) ** -0.5,
    }


def spelled(config: DecoderConfig) -> HF:
    """The scale of attention scores in the words of ``config.json``."""
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
    fixed={"norm": "rms_plus_one", "post_norm": True},
    derived=derived,
    spelled=spelled,
    must_be={"use_bidirectional_attention": (None, False)},
    layers=Layers(
        window=lambda hf: hf.get("sliding_window", 4096), slides=lambda hf, layer: layer % 2 == 0
    ),
)
