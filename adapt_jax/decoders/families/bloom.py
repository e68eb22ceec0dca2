"""BLOOM (2211.05100): ALiBi in place of position embeddings, and a norm after the embedding."""

from typing import Any

from adapt_jax.decoders.alibi import Alibi
from adapt_jax.decoders.families import falcon
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import norm

# The first files have other names for these fields.
OLDER_NAMES = {
    "hidden_size": "n_embed",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}


def _read(hf: HFConfig, name: str) -> Any:
    """The value of a field by either of its names."""
    older = hf.get(OLDER_NAMES[name])
    return hf[name] if hf.get(name) is not None or older is None else older


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads and feed-forward layer."""
    embed_dim, num_heads = _read(hf, "hidden_size"), _read(hf, "n_head")
    return {
        "num_kv_heads": num_heads,
        "head_dim": embed_dim // num_heads,
        "ffn_dim": 4 * embed_dim,
    }


FAMILY = Family(
    architecture="BloomForCausalLM",
    model_type="bloom",
    tensors=(
        *norm("transformer.word_embeddings_layernorm", "input_norm"),
        *falcon.FAMILY.tensors,
    ),
    tensors_for=falcon.FAMILY.tensors_for,
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "embed_dim": ("hidden_size", lambda hf: _read(hf, "hidden_size")),
        "num_layers": ("n_layer", lambda hf: _read(hf, "n_layer")),
        "num_heads": ("n_head", lambda hf: _read(hf, "n_head")),
        "context_length": ("seq_length", 2048),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 1),
        "eos_ids": ("eos_token_id", 2),
        "pad_id": ("pad_token_id", None),
    },
    fixed_fields={
        "alibi": Alibi(),
        "input_norm": True,
        "norm": "layer",
        "norm_bias": True,
        "activation": "gelu_new",
        "gated": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    computed_fields=_computed_fields,
    supported_values={"apply_residual_connection_post_layernorm": (False,)},
    layer_rules=LayerRules(rope=None),
    ignored_tensors=(),
    prefix_aliases=(
        *falcon.FAMILY.prefix_aliases,
        ("word_embeddings_layernorm.", "transformer.word_embeddings_layernorm."),
    ),
)
