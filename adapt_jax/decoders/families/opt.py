"""OPT (2205.01068): learned positions after two unused rows, layer norms, biases everywhere.

The variant of OPT-350m, with norms after each part and a narrower embedding, is refused.
"""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import LAYER, default_head_dim, norm, projection

HF_LAYER = "model.decoder.layers.{n}."


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads.

    Raises:
        ValueError: the embedding is narrower than the layers.
    """
    width = hf.get("word_embed_proj_dim")
    if width not in (None, hf["hidden_size"]):
        raise ValueError(f"word_embed_proj_dim {width} is not supported; expected hidden_size")
    return {"num_kv_heads": hf["num_attention_heads"], "head_dim": default_head_dim(hf)}


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The width of the embedding."""
    return {"word_embed_proj_dim": config.embed_dim}


FAMILY = Family(
    architecture="OPTForCausalLM",
    model_type="opt",
    tensors=(
        ("model.decoder.embed_tokens.weight", "embedding", False),
        ("model.decoder.embed_positions.weight", "position_embedding", False),
        *norm("model.decoder.final_layer_norm", "norm"),
        ("lm_head.weight", "output.kernel", False),
        *projection(HF_LAYER + "self_attn.q_proj", LAYER + "attention.query"),
        *projection(HF_LAYER + "self_attn.k_proj", LAYER + "attention.key"),
        *projection(HF_LAYER + "self_attn.v_proj", LAYER + "attention.value"),
        *projection(HF_LAYER + "self_attn.out_proj", LAYER + "attention.output"),
        *norm(HF_LAYER + "self_attn_layer_norm", LAYER + "attention_norm"),
        *norm(HF_LAYER + "final_layer_norm", LAYER + "ffn_norm"),
        *projection(HF_LAYER + "fc1", LAYER + "ffn.up"),
        *projection(HF_LAYER + "fc2", LAYER + "ffn.down"),
    ),
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "embed_dim": ("hidden_size", REQUIRED),
        "ffn_dim": ("ffn_dim", 3072),
        "num_layers": ("num_hidden_layers", REQUIRED),
        "num_heads": ("num_attention_heads", REQUIRED),
        "context_length": ("max_position_embeddings", 2048),
        "num_learned_positions": ("max_position_embeddings", 2048),
        "activation": ("activation_function", "relu"),
        "qkv_bias": ("enable_bias", True),
        "output_bias": ("enable_bias", True),
        "mlp_bias": ("enable_bias", True),
        "norm_scale": ("layer_norm_elementwise_affine", True),
        "norm_bias": ("layer_norm_elementwise_affine", True),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 2),
        "eos_ids": ("eos_token_id", 2),
        "pad_id": ("pad_token_id", 1),
    },
    fixed_fields={"norm": "layer", "gated": False, "learned_position_offset": 2},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={"do_layer_norm_before": (True,), "_remove_final_layer_norm": (False,)},
    layer_rules=LayerRules(rope=None),
    ignored_tensors=(),
    # the base model's names, and those of the first releases
    prefix_aliases=(("decoder.", "model.decoder."),),
)
