"""GPT-2: learned positions, layer norms, fused projections that are stored as [in, out]."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import OWN, norm

LAYER = "transformer.h.{n}."
QKV = tuple(f"{OWN}attention.{name}" for name in ("query", "key", "value"))


def derived(hf: HF) -> HF:
    """Heads are all alike; the feed-forward size is four times the hidden one, unless given."""
    return {
        "num_kv_heads": hf["n_head"],
        "head_dim": hf["n_embd"] // hf["n_head"],
        "ffn_dim": hf.get("n_inner") or 4 * hf["n_embd"],
        "attention_scale": None if hf.get("scale_attn_weights", True) else 1.0,
    }


def spelled(config: DecoderConfig) -> HF:
    """The same in the words of ``config.json``."""
    return {"n_inner": config.ffn_dim, "scale_attn_weights": config.attention_scale is None}


FAMILY = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    tensors=(
        ("transformer.wte.weight", "embedding", False),
        ("transformer.wpe.weight", "position_embedding", False),
        *norm("transformer.ln_f", "norm"),
        ("lm_head.weight", "output.kernel", False),
        *norm(LAYER + "ln_1", OWN + "attention_norm"),
        *norm(LAYER + "ln_2", OWN + "ffn_norm"),
        (LAYER + "attn.c_attn.weight", tuple(f"{part}.kernel" for part in QKV), True),
        (LAYER + "attn.c_attn.bias", tuple(f"{part}.bias" for part in QKV), False),
        (LAYER + "attn.c_proj.weight", OWN + "attention.output.kernel", True),
        (LAYER + "attn.c_proj.bias", OWN + "attention.output.bias", False),
        (LAYER + "mlp.c_fc.weight", OWN + "ffn.up.kernel", True),
        (LAYER + "mlp.c_fc.bias", OWN + "ffn.up.bias", False),
        (LAYER + "mlp.c_proj.weight", OWN + "ffn.down.kernel", True),
        (LAYER + "mlp.c_proj.bias", OWN + "ffn.down.bias", False),
    ),
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "embed_dim": ("n_embd", REQUIRED),
        "num_layers": ("n_layer", REQUIRED),
        "num_heads": ("n_head", REQUIRED),
        "context_length": ("n_positions", 1024),
        "learned_positions": ("n_positions", 1024),
        "activation": ("activation_function", "gelu_new"),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 50256),
        "eos_ids": ("eos_token_id", 50256),
        "pad_id": ("pad_token_id", None),
    },
    fixed={
        "norm": "layer",
        "norm_bias": True,
        "gated": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    derived=derived,
    spelled=spelled,
    must_be={"scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
    layers=Layers(rope=None),
    ignored=("*.attn.bias", "*.attn.masked_bias"),
    # The first releases have no "transformer." in front.
    renamed=tuple((part, f"transformer.{part}") for part in ("wte.", "wpe.", "ln_f.", "h.")),
)
