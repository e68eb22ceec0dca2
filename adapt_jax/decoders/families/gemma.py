"""Gemma (2403.08295): scaled embeddings, and norms whose stored scale is one less."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, TENSORS


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The scale of embeddings; the official releases write "gelu" for its tanh form."""
    act = hf.get("hidden_act", "gelu_pytorch_tanh")
    return {
        "embedding_scale": hf["hidden_size"] ** 0.5,
        "activation": "gelu_pytorch_tanh" if act == "gelu" else act,
    }


FAMILY = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    tensors=TENSORS,
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "num_kv_heads": ("num_key_value_heads", 16),
        "head_dim": ("head_dim", 256),
        "context_length": ("max_position_embeddings", 8192),
        "activation": ("hidden_act", "gelu_pytorch_tanh"),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 2),
        "eos_ids": ("eos_token_id", 1),
        "pad_id": ("pad_token_id", 0),
    },
    fixed_fields={"norm": "rms_plus_one"},
    computed_fields=_computed_fields,
    supported_values={"use_bidirectional_attention": (None, False)},
)
