"""OPT (2205.01068): learned positions after two unused rows, layer norms, biases everywhere.

OPT-350m has norms of the sums with the residuals, and a narrower embedding.
"""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import REQUIRED, Family, TensorRow
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import LAYER, default_head_dim, norm, projection

HF_LAYER = "model.decoder.layers.{n}."


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads and embedding, and where norms are."""
    width, is_pre_norm = hf.get("word_embed_proj_dim"), hf.get("do_layer_norm_before", True)
    return {
        "num_kv_heads": hf["num_attention_heads"],
        "head_dim": default_head_dim(hf),
        "token_embed_dim": 0 if width in (None, hf["hidden_size"]) else width,
        "pre_norm": is_pre_norm,
        "post_norm": not is_pre_norm,
        "norms_sums": not is_pre_norm,
        "final_norm": is_pre_norm and not hf.get("_remove_final_layer_norm", False),
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The width of the embedding, and where norms are."""
    return {
        "word_embed_proj_dim": config.input_dim,
        "do_layer_norm_before": config.pre_norm,
        "_remove_final_layer_norm": config.pre_norm and not config.final_norm,
    }


def _name_norms(config: DecoderConfig) -> tuple[TensorRow, ...]:
    """The norms before attention and feed-forward layer, or after both."""
    attention, ffn = ("attention_norm", "ffn_norm")
    if not config.pre_norm:
        attention, ffn = ("attention_post_norm", "ffn_post_norm")
    return (
        *norm(HF_LAYER + "self_attn_layer_norm", LAYER + attention),
        *norm(HF_LAYER + "final_layer_norm", LAYER + ffn),
    )


FAMILY = Family(
    architecture="OPTForCausalLM",
    model_type="opt",
    tensors=(
        ("model.decoder.embed_tokens.weight", "embedding", False),
        ("model.decoder.embed_positions.weight", "position_embedding", False),
        *norm("model.decoder.final_layer_norm", "norm"),
        ("lm_head.weight", "output.kernel", False),
        ("model.decoder.project_in.weight", "input_projection.kernel", False),
        ("model.decoder.project_out.weight", "output_projection.kernel", False),
        *projection(HF_LAYER + "self_attn.q_proj", LAYER + "attention.query"),
        *projection(HF_LAYER + "self_attn.k_proj", LAYER + "attention.key"),
        *projection(HF_LAYER + "self_attn.v_proj", LAYER + "attention.value"),
        *projection(HF_LAYER + "self_attn.out_proj", LAYER + "attention.output"),
        *projection(HF_LAYER + "fc1", LAYER + "ffn.up"),
        *projection(HF_LAYER + "fc2", LAYER + "ffn.down"),
    ),
    tensors_for=_name_norms,
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
    layer_rules=LayerRules(rope=None),
    ignored_tensors=(),
    # the base model's names, and those of the first releases
    prefix_aliases=(("decoder.", "model.decoder."),),
)
