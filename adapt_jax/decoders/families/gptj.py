"""GPT-J (EleutherAI, 2021): parallel residuals; neighbouring features as pairs, partly rotated."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import gpt2
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules, find_rotated_share
from adapt_jax.decoders.families.tables import LAYER, norm, projection
from adapt_jax.decoders.rope import Rope

HF_LAYER = "transformer.h.{n}."


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads and feed-forward layer (by default four times the hidden size)."""
    return {
        "num_kv_heads": hf["n_head"],
        "head_dim": hf["n_embd"] // hf["n_head"],
        "ffn_dim": hf.get("n_inner") or 4 * hf["n_embd"],
    }


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """The rotary positions: ``rotary_dim`` features of each head are rotated."""
    share = find_rotated_share(hf.get("rotary_dim", 64), hf["n_embd"] // hf["n_head"])
    return replace(layer, rope=Rope(partial_rotary_factor=share, interleaved=True))


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The feed-forward size, and the number of rotated features."""
    rope = config.layer_config(0).rope
    assert rope is not None
    return {"n_inner": config.ffn_dim, "rotary_dim": 2 * len(rope.frequencies(config.head_dim))}


FAMILY = Family(
    architecture="GPTJForCausalLM",
    model_type="gptj",
    tensors=(
        ("transformer.wte.weight", "embedding", False),
        *norm("transformer.ln_f", "norm"),
        *projection("lm_head", "output"),
        *norm(HF_LAYER + "ln_1", LAYER + "attention_norm"),
        *projection(HF_LAYER + "attn.q_proj", LAYER + "attention.query"),
        *projection(HF_LAYER + "attn.k_proj", LAYER + "attention.key"),
        *projection(HF_LAYER + "attn.v_proj", LAYER + "attention.value"),
        *projection(HF_LAYER + "attn.out_proj", LAYER + "attention.output"),
        *projection(HF_LAYER + "mlp.fc_in", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.fc_out", LAYER + "ffn.down"),
    ),
    fields={
        **{key: gpt2.FAMILY.fields[key] for key in gpt2.FAMILY.fields if "learned" not in key},
        "context_length": ("n_positions", 2048),
        "tie_embeddings": ("tie_word_embeddings", False),
    },
    fixed_fields={
        "norm": "layer",
        "norm_bias": True,
        "residual": "parallel_shared",
        "gated": False,
        "mlp_bias": True,
        "lm_head_bias": True,
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=None, adjust=_adjust_layer),
    ignored_tensors=gpt2.FAMILY.ignored_tensors,
    prefix_aliases=gpt2.FAMILY.prefix_aliases,
)
