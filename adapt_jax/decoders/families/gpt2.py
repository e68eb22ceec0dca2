"""GPT-2: learned positions, layer norms, fused projections stored as [in, out]."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import LAYER, norm

HF_LAYER = "transformer.h.{n}."
QKV = tuple(f"{LAYER}attention.{name}" for name in ("query", "key", "value"))


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads and feed-forward layer (by default four times the hidden size)."""
    return {
        "num_kv_heads": hf["n_head"],
        "head_dim": hf["n_embd"] // hf["n_head"],
        "ffn_dim": hf.get("n_inner") or 4 * hf["n_embd"],
        "attention_scale": None if hf.get("scale_attn_weights", True) else 1.0,
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The feed-forward size, and whether attention scores are scaled."""
    return {"n_inner": config.ffn_dim, "scale_attn_weights": config.attention_scale is None}


FAMILY = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    tensors=(
        ("transformer.wte.weight", "embedding", False),
        ("transformer.wpe.weight", "position_embedding", False),
        *norm("transformer.ln_f", "norm"),
        ("lm_head.weight", "output.kernel", False),
        *norm(HF_LAYER + "ln_1", LAYER + "attention_norm"),
        *norm(HF_LAYER + "ln_2", LAYER + "ffn_norm"),
        (HF_LAYER + "attn.c_attn.weight", tuple(f"{part}.kernel" for part in QKV), True),
        (HF_LAYER + "attn.c_attn.bias", tuple(f"{part}.bias" for part in QKV), False),
        (HF_LAYER + "attn.c_proj.weight", LAYER + "attention.output.kernel", True),
        (HF_LAYER + "attn.c_proj.bias", LAYER + "attention.output.bias", False),
        (HF_LAYER + "mlp.c_fc.weight", LAYER + "ffn.up.kernel", True),
        (HF_LAYER + "mlp.c_fc.bias", LAYER + "ffn.up.bias", False),
        (HF_LAYER + "mlp.c_proj.weight", LAYER + "ffn.down.kernel", True),
        (HF_LAYER + "mlp.c_proj.bias", LAYER + "ffn.down.bias", False),
    ),
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "embed_dim": ("n_embd", REQUIRED),
        "num_layers": ("n_layer", REQUIRED),
        "num_heads": ("n_head", REQUIRED),
        "context_length": ("n_positions", 1024),
        "num_learned_positions": ("n_positions", 1024),
        "activation": ("activation_function", "gelu_new"),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 50256),
        "eos_ids": ("eos_token_id", 50256),
        "pad_id": ("pad_token_id", None),
    },
    fixed_fields={
        "norm": "layer",
        "norm_bias": True,
        "gated": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={"scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
    layer_rules=LayerRules(rope=None),
    ignored_tensors=("*.attn.bias", "*.attn.masked_bias"),
    # The names in the first releases lack "transformer.".
    prefix_aliases=tuple((part, f"transformer.{part}") for part in ("wte.", "wpe.", "ln_f.", "h.")),
)
