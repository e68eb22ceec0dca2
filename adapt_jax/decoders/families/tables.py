"""The tables that most families share: Llama's names of tensors and fields."""

from collections.abc import Mapping
from typing import Any

from adapt_jax.decoders.families.family import BARE, REQUIRED, Row

LAYER, OWN = "model.layers.{n}.", "layers.{n}."


def projection(name: str, path: str) -> tuple[Row, Row]:
    """The two rows of a projection: its kernel and its bias."""
    return (f"{name}.weight", f"{path}.kernel", False), (f"{name}.bias", f"{path}.bias", False)


def norm(name: str, path: str) -> tuple[Row, Row]:
    """The two rows of a norm: its scale and its bias."""
    return (f"{name}.weight", f"{path}.scale", False), (f"{name}.bias", f"{path}.bias", False)


ENDS: tuple[Row, ...] = (
    ("model.embed_tokens.weight", "embedding", False),
    *norm("model.norm", "norm"),
    ("lm_head.weight", "output.kernel", False),
)
ATTENTION: tuple[Row, ...] = (
    *projection(LAYER + "self_attn.q_proj", OWN + "attention.query"),
    *projection(LAYER + "self_attn.k_proj", OWN + "attention.key"),
    *projection(LAYER + "self_attn.v_proj", OWN + "attention.value"),
    *projection(LAYER + "self_attn.o_proj", OWN + "attention.output"),
    *norm(LAYER + "self_attn.q_norm", OWN + "attention.query_norm"),
    *norm(LAYER + "self_attn.k_norm", OWN + "attention.key_norm"),
)
GATED: tuple[Row, ...] = (
    *projection(LAYER + "mlp.gate_proj", OWN + "ffn.gate"),
    *projection(LAYER + "mlp.up_proj", OWN + "ffn.up"),
    *projection(LAYER + "mlp.down_proj", OWN + "ffn.down"),
)
PRE_NORMS: tuple[Row, ...] = (
    *norm(LAYER + "input_layernorm", OWN + "attention_norm"),
    *norm(LAYER + "post_attention_layernorm", OWN + "ffn_norm"),
)
POST_NORMS: tuple[Row, ...] = (
    *norm(LAYER + "post_attention_layernorm", OWN + "attention_post_norm"),
    *norm(LAYER + "post_feedforward_layernorm", OWN + "ffn_post_norm"),
)
TENSORS: tuple[Row, ...] = (*ENDS, *ATTENTION, *GATED, *PRE_NORMS)


def heads(hf: Mapping[str, Any]) -> Any:
    """As many key/value heads as query heads."""
    return hf["num_attention_heads"]


def even_share(hf: Mapping[str, Any]) -> Any:
    """The hidden size, shared out among the heads."""
    return hf["hidden_size"] // hf["num_attention_heads"]


FIELDS: Mapping[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "embed_dim": ("hidden_size", REQUIRED),
    "ffn_dim": ("intermediate_size", REQUIRED),
    "num_layers": ("num_hidden_layers", REQUIRED),
    "num_heads": ("num_attention_heads", REQUIRED),
    "num_kv_heads": ("num_key_value_heads", heads),
    "head_dim": ("head_dim", even_share),
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
NO_IDS: Mapping[str, tuple[str, Any]] = {
    "bos_id": ("bos_token_id", None),
    "eos_ids": ("eos_token_id", None),
}

# The text decoder out of a multimodal checkpoint, as older and newer files call it.
MULTIMODAL: Mapping[str, Any] = {
    "ignored": ("*rotary_emb.inv_freq", "*vision_tower.*", "*multi_modal_projector.*"),
    "renamed": (
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        ("model.language_model.", "model."),
        *BARE,
    ),
}
