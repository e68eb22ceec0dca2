"""EXAONE 4 (2507.11407): norms after only; full layers beside sliding ones know no positions."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import FULL, HF, SLIDING, Layers
from adapt_jax.decoders.families.tables import ATTENTION, ENDS, FIELDS, GATED, POST_NORMS


def window(hf: HF) -> int | None:
    """How many tokens a sliding layer sees; where none is told, no layer slides."""
    return hf.get("sliding_window", 4096)


def slides(hf: HF, layer: int) -> bool:
    """Three sliding layers to a full one, unless the file says otherwise."""
    return window(hf) is not None and (layer + 1) % hf.get("sliding_window_pattern", 4) != 0


def change(hf: HF, layer: int, kind: LayerConfig) -> LayerConfig:
    """Full layers know no positions, where there is a window at all."""
    if window(hf) is None:
        return kind
    if SLIDING not in (hf.get("layer_types") or [SLIDING]):
        raise ValueError(f"layer_types has {FULL} alone beside sliding_window {window(hf)}")
    return kind if kind.window is not None else replace(kind, rope=None)


def spelled(config: DecoderConfig) -> HF:
    """The window, also where there is none: it decides on the positions of full layers."""
    kinds = [config.layer_config(index) for index in range(config.num_layers)]
    return {"sliding_window": next((one.window for one in kinds if one.window is not None), None)}


FAMILY = Family(
    architecture="Exaone4ForCausalLM",
    model_type="exaone4",
    tensors=(*ENDS, *ATTENTION, *GATED, *POST_NORMS),
    fields={
        **FIELDS,
        "num_kv_heads": ("num_key_value_heads", 32),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 0),
    },
    fixed={"pre_norm": False, "post_norm": True, "qk_norm": "head"},
    spelled=spelled,
    layers=Layers(window=window, slides=slides, change=change),
)
