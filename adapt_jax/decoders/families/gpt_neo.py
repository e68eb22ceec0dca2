"""GPT-Neo (EleutherAI, 2021): GPT-2 with windows in every other layer and unscaled attention."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import gpt2
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import LAYER, default_head_dim, norm, projection

HF_LAYER = "transformer.h.{n}."
GLOBAL, LOCAL = "global", "local"


def _read_layer_types(hf: HFConfig) -> list[str]:
    """The type of each layer: patterns, and how often each is repeated.

    Raises:
        ValueError: they are not as many as layers, or a type is unknown.
    """
    patterns = hf.get("attention_types") or [[[GLOBAL, LOCAL], 12]]
    count = sum(len(pattern) * repeats for pattern, repeats in patterns)
    if count != hf["num_layers"]:
        raise ValueError(f"attention_types has {count} entries for {hf['num_layers']} layers")
    types = [name for pattern, repeats in patterns for name in list(pattern) * repeats]
    if unknown := set(types) - {GLOBAL, LOCAL}:
        raise ValueError(f"attention_types {min(unknown)!r} is not supported")
    return types


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Local layers have a window."""
    is_local = _read_layer_types(hf)[index] == LOCAL
    return replace(layer, window=hf.get("window_size", 256)) if is_local else layer


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads and feed-forward layer (by default four times the hidden size)."""
    return {
        "num_kv_heads": hf["num_heads"],
        "head_dim": default_head_dim({**hf, "num_attention_heads": hf["num_heads"]}),
        "ffn_dim": hf.get("intermediate_size") or 4 * hf["hidden_size"],
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The feed-forward size, and the type of each layer."""
    windows = [config.layer_config(index).window for index in range(config.num_layers)]
    types = [GLOBAL if window is None else LOCAL for window in windows]
    return {
        "intermediate_size": config.ffn_dim,
        "attention_types": [[types, 1]],
        "window_size": next((window for window in windows if window is not None), 256),
        "sliding_window": None,  # transformers would keep too few keys of global layers
    }


FAMILY = Family(
    architecture="GPTNeoForCausalLM",
    model_type="gpt_neo",
    tensors=(
        ("transformer.wte.weight", "embedding", False),
        ("transformer.wpe.weight", "position_embedding", False),
        *norm("transformer.ln_f", "norm"),
        ("lm_head.weight", "output.kernel", False),
        *norm(HF_LAYER + "ln_1", LAYER + "attention_norm"),
        *norm(HF_LAYER + "ln_2", LAYER + "ffn_norm"),
        *projection(HF_LAYER + "attn.attention.q_proj", LAYER + "attention.query"),
        *projection(HF_LAYER + "attn.attention.k_proj", LAYER + "attention.key"),
        *projection(HF_LAYER + "attn.attention.v_proj", LAYER + "attention.value"),
        *projection(HF_LAYER + "attn.attention.out_proj", LAYER + "attention.output"),
        *projection(HF_LAYER + "mlp.c_fc", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.c_proj", LAYER + "ffn.down"),
    ),
    fields={
        **gpt2.FAMILY.fields,
        "embed_dim": ("hidden_size", REQUIRED),
        "num_layers": ("num_layers", REQUIRED),
        "num_heads": ("num_heads", REQUIRED),
        "context_length": ("max_position_embeddings", 2048),
        "num_learned_positions": ("max_position_embeddings", 2048),
    },
    fixed_fields={**gpt2.FAMILY.fixed_fields, "qkv_bias": False, "attention_scale": 1.0},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=None, adjust=_adjust_layer),
    ignored_tensors=("*.attention.bias", "*.attention.masked_bias"),
    prefix_aliases=gpt2.FAMILY.prefix_aliases,
)
