"""EXAONE 4 (2507.11407): norms after each part only; full layers without positions."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import FULL, SLIDING, HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    GATED_FFN,
    POST_NORMS,
)


def _find_window(hf: HFConfig) -> int | None:
    """How many tokens a sliding layer attends to; None: no layer slides."""
    return hf.get("sliding_window", 4096)


def _is_sliding(hf: HFConfig, index: int) -> bool:
    """By default three sliding layers precede a full one."""
    return _find_window(hf) is not None and (index + 1) % hf.get("sliding_window_pattern", 4) != 0


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Full layers have no positions where other layers slide."""
    if _find_window(hf) is None:
        return layer
    if SLIDING not in (hf.get("layer_types") or [SLIDING]):
        raise ValueError(f"layer_types has {FULL} alone beside sliding_window {_find_window(hf)}")
    return layer if layer.window is not None else replace(layer, rope=None)


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The window. Null is written, too, as full layers have positions then."""
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    return {"sliding_window": next((layer.window for layer in layers if layer.window), None)}


FAMILY = Family(
    architecture="Exaone4ForCausalLM",
    model_type="exaone4",
    tensors=(*EMBEDDING_AND_OUTPUT, *ATTENTION, *GATED_FFN, *POST_NORMS),
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 32),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 0),
    },
    fixed_fields={"pre_norm": False, "post_norm": True, "qk_norm": "head"},
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(window=_find_window, is_sliding=_is_sliding, adjust=_adjust_layer),
)
