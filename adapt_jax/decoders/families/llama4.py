"""Llama 4, text: experts whose inputs are scaled, attention in chunks, layers without positions.

A multimodal checkpoint is read without its tower, and written as a text decoder.
"""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import FULL, HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    MULTIMODAL,
    PRE_NORMS,
    projection,
)
from adapt_jax.decoders.rope import Rope

CHUNKED = "chunked_attention"
HF_FFN, FFN = HF_LAYER + "feed_forward.", LAYER + "ffn."


def _read_rope_layers(hf: HFConfig) -> list[bool]:
    """Which layers have rotary positions (1 in ``no_rope_layers``).

    Raises:
        ValueError: fewer entries than layers.
    """
    interval, count = hf.get("no_rope_layer_interval", 4), hf["num_hidden_layers"]
    listed = hf.get("no_rope_layers") or [(n + 1) % interval != 0 for n in range(count)]
    if len(listed) < count:
        raise ValueError(f"no_rope_layers has {len(listed)} entries for {count} layers")
    return [bool(one) for one in listed[:count]]


def _read_chunk(hf: HFConfig, index: int) -> int | None:
    """The size of the chunks in which a layer attends; by default those with positions have them.

    Raises:
        ValueError: an unknown layer type, or one in chunks without their size.
    """
    size, listed = hf.get("attention_chunk_size", 8192), hf.get("layer_types")
    if not listed:
        return size if _read_rope_layers(hf)[index] else None
    if len(listed) != hf["num_hidden_layers"] or not {CHUNKED, FULL}.issuperset(listed):
        raise ValueError(f"layer_types: expected {CHUNKED} or {FULL} for each layer")
    if listed[index] == CHUNKED and size is None:
        raise ValueError(f"layer_types has {CHUNKED}, but there is no attention_chunk_size")
    return size if listed[index] == CHUNKED else None


def _read_moe_layers(hf: HFConfig) -> list[int]:
    """The layers that have experts."""
    if hf.get("moe_layers") is not None:
        return list(hf["moe_layers"])
    step = hf.get("interleave_moe_layer_step", 1)
    return list(range(step - 1, hf["num_hidden_layers"], step))


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Experts, chunks, and positions; layers without positions scale their queries."""
    is_moe, chunk = index in _read_moe_layers(hf), _read_chunk(hf, index)
    layer = replace(layer, is_moe=is_moe, chunk=chunk)
    if _read_rope_layers(hf)[index]:
        return layer
    scaling = float(hf.get("attn_scale", 0.1)), hf.get("floor_scale", 8192), 1
    is_scaled = hf.get("attn_temperature_tuning", True)
    return replace(layer, rope=None, query_scaling=scaling if is_scaled else None)


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The fields of ``config.json`` that no table writes."""
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    chunks = [layer.chunk for layer in layers if layer.chunk is not None]
    scalings = [layer.query_scaling for layer in layers if layer.query_scaling is not None]
    hf = {
        "use_qk_norm": config.qk_norm is not None,
        "no_rope_layers": [int(layer.rope is not None) for layer in layers],
        "layer_types": [FULL if layer.chunk is None else CHUNKED for layer in layers],
        "attention_chunk_size": chunks[0] if chunks else None,
        "moe_layers": [index for index, layer in enumerate(layers) if layer.is_moe],
        "attn_temperature_tuning": bool(scalings),
    }
    if scalings:
        hf |= {"attn_scale": scalings[0][0], "floor_scale": scalings[0][1]}
    return hf


FAMILY = Family(
    architecture="Llama4ForCausalLM",
    model_type="llama4_text",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        *projection(HF_FFN + "gate_proj", FFN + "gate"),
        *projection(HF_FFN + "up_proj", FFN + "up"),
        *projection(HF_FFN + "down_proj", FFN + "down"),
        (HF_FFN + "router.weight", FFN + "router", False),
        (HF_FFN + "experts.gate_up_proj", (FFN + "gate", FFN + "up"), False),
        (HF_FFN + "experts.down_proj", FFN + "down", False),
        *projection(HF_FFN + "shared_expert.gate_proj", FFN + "shared.gate"),
        *projection(HF_FFN + "shared_expert.up_proj", FFN + "shared.up"),
        *projection(HF_FFN + "shared_expert.down_proj", FFN + "shared.down"),
    ),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "ffn_dim": ("intermediate_size_mlp", 16384),
        "num_kv_heads": ("num_key_value_heads", 8),
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 131072),
        "norm_eps": ("rms_norm_eps", 1e-5),
    },
    fixed_fields={"qk_norm_after_rope": True},
    computed_fields=lambda hf: {"qk_norm": "unscaled" if hf.get("use_qk_norm", True) else None},
    moe_fields={
        "num_experts": ("num_local_experts", 16),
        "experts_per_token": ("num_experts_per_tok", 1),
        "ffn_dim": ("intermediate_size", REQUIRED),
    },
    fixed_moe_fields={"scores": "sigmoid", "normalize_weights": False, "scale_inputs": True},
    computed_moe_fields=lambda hf: {"shared_ffn_dim": hf["intermediate_size"]},
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=Rope(theta=500_000.0, interleaved=True), adjust=_adjust_layer),
    ignored_tensors=(*MULTIMODAL["ignored_tensors"], "*vision_model.*"),
    prefix_aliases=MULTIMODAL["prefix_aliases"],
)
