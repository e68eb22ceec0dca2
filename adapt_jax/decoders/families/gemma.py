"""Gemma (2403.08295): scaled embeddings, norms that store their scale less one."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, TENSORS


def derived(hf: HF) -> HF:
    """The scale of embeddings; "gelu" stands for its tanh form in the official releases."""
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
    fixed={"norm": "rms_plus_one"},
    derived=derived,
    must_be={"use_bidirectional_attention": (None, False)},
)
