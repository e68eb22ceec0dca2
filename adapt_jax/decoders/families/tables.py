"""The tables that most families share: Llama's names of tensors and of fields."""

from collections.abc import Mapping
from typing import Any

from adapt_jax.decoders.families.family import BARE_PREFIXES, REQUIRED, TensorRow
from adapt_jax.decoders.families.layer_rules import HFConfig

__all__ = [
    "ATTENTION",
    "ATTENTION_BIAS",
    "EMBEDDING_AND_OUTPUT",
    "FIELDS",
    "GATED_FFN",
    "HF_LAYER",
    "LAYER",
    "MLP_BIAS",
    "MULTIMODAL",
    "NO_BOS_AND_EOS",
    "POST_NORMS",
    "PRE_NORMS",
    "TENSORS",
    "default_head_dim",
    "norm",
    "projection",
]

# Prefixes of the tensors of a layer in checkpoints, and of its parameters here.
HF_LAYER, LAYER = "model.layers.{n}.", "layers.{n}."


def projection(name: str, path: str) -> tuple[TensorRow, TensorRow]:
    """The two rows of a linear projection: its kernel and its bias."""
    return (f"{name}.weight", f"{path}.kernel", False), (f"{name}.bias", f"{path}.bias", False)


def norm(name: str, path: str) -> tuple[TensorRow, TensorRow]:
    """The two rows of a norm: its scale and its bias."""
    return (f"{name}.weight", f"{path}.scale", False), (f"{name}.bias", f"{path}.bias", False)


EMBEDDING_AND_OUTPUT: tuple[TensorRow, ...] = (
    ("model.embed_tokens.weight", "embedding", False),
    *norm("model.norm", "norm"),
    ("lm_head.weight", "output.kernel", False),
)
ATTENTION: tuple[TensorRow, ...] = (
    *projection(HF_LAYER + "self_attn.q_proj", LAYER + "attention.query"),
    *projection(HF_LAYER + "self_attn.k_proj", LAYER + "attention.key"),
    *projection(HF_LAYER + "self_attn.v_proj", LAYER + "attention.value"),
    *projection(HF_LAYER + "self_attn.o_proj", LAYER + "attention.output"),
    *norm(HF_LAYER + "self_attn.q_norm", LAYER + "attention.query_norm"),
    *norm(HF_LAYER + "self_attn.k_norm", LAYER + "attention.key_norm"),
)
GATED_FFN: tuple[TensorRow, ...] = (
    *projection(HF_LAYER + "mlp.gate_proj", LAYER + "ffn.gate"),
    *projection(HF_LAYER + "mlp.up_proj", LAYER + "ffn.up"),
    *projection(HF_LAYER + "mlp.down_proj", LAYER + "ffn.down"),
)
PRE_NORMS: tuple[TensorRow, ...] = (
    *norm(HF_LAYER + "input_layernorm", LAYER + "attention_norm"),
    *norm(HF_LAYER + "post_attention_layernorm", LAYER + "ffn_norm"),
)
POST_NORMS: tuple[TensorRow, ...] = (
    *norm(HF_LAYER + "post_attention_layernorm", LAYER + "attention_post_norm"),
    *norm(HF_LAYER + "post_feedforward_layernorm", LAYER + "ffn_post_norm"),
)
TENSORS: tuple[TensorRow, ...] = (*EMBEDDING_AND_OUTPUT, *ATTENTION, *GATED_FFN, *PRE_NORMS)


def _default_kv_heads(hf: HFConfig) -> int:
    """The number of query heads: each has keys and values of its own."""
    return int(hf["num_attention_heads"])


def default_head_dim(hf: HFConfig) -> int:
    """The hidden size divided among the heads."""
    return int(hf["hidden_size"] // hf["num_attention_heads"])


FIELDS: Mapping[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "embed_dim": ("hidden_size", REQUIRED),
    "ffn_dim": ("intermediate_size", REQUIRED),
    "num_layers": ("num_hidden_layers", REQUIRED),
    "num_heads": ("num_attention_heads", REQUIRED),
    "num_kv_heads": ("num_key_value_heads", _default_kv_heads),
    "head_dim": ("head_dim", default_head_dim),
    "context_length": ("max_position_embeddings", 2048),
    "activation": ("hidden_act", "silu"),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False),
    "bos_id": ("bos_token_id", 1),
    "eos_ids": ("eos_token_id", 2),
    "pad_id": ("pad_token_id", None),
}
ATTENTION_BIAS: Mapping[str, tuple[str, Any]] = {
    "qkv_bias": ("attention_bias", False),
    "output_bias": ("attention_bias", False),
}
MLP_BIAS: Mapping[str, tuple[str, Any]] = {"mlp_bias": ("mlp_bias", False)}
NO_BOS_AND_EOS: Mapping[str, tuple[str, Any]] = {
    "bos_id": ("bos_token_id", None),
    "eos_ids": ("eos_token_id", None),
}

# For the text decoder inside a multimodal checkpoint. Older and newer files differ in names.
MULTIMODAL: Mapping[str, Any] = {
    "ignored_tensors": ("*rotary_emb.inv_freq", "*vision_tower.*", "*multi_modal_projector.*"),
    "prefix_aliases": (
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        ("model.language_model.", "model."),
        *BARE_PREFIXES,
    ),
}
