"""ERNIE 4.5 0.3B (Baidu, 2025): Llama whose rotary pairs are neighbouring features."""

from dataclasses import replace

from adapt_jax.decoders.families import llama
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, default_head_dim
from adapt_jax.decoders.rope import Rope


def _default_head_dim(hf: HFConfig) -> int:
    """128 where the field is absent, the hidden size divided among the heads where it is null."""
    return default_head_dim(hf) if "head_dim" in hf else 128


def _default_kv_heads(hf: HFConfig) -> int:
    """2 where the field is absent, as many as query heads where it is null."""
    return int(hf["num_attention_heads"]) if "num_key_value_heads" in hf else 2


FAMILY = replace(
    llama.FAMILY,
    architecture="Ernie4_5ForCausalLM",
    model_type="ernie4_5",
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", _default_kv_heads),
        "head_dim": ("head_dim", _default_head_dim),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "pad_id": ("pad_token_id", 0),
        **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), ("use_bias", False)),
    },
    layer_rules=LayerRules(rope=Rope(theta=5e5, interleaved=True)),
)
