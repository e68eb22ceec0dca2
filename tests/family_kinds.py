"""Which lines of a decoder a config reaches: so that a test takes one case for each of them."""

import copy
from functools import lru_cache

from family_cases import CASES
from family_fields import sizes_of

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import FAMILIES

__all__ = ["config_of", "kind_of_last_layer", "kinds_at_any_length", "kinds_of_decoding"]


@lru_cache
def config_of(name: str) -> DecoderConfig:
    """The decoder's config of a case."""
    from transformers import CONFIG_MAPPING

    model_type, fields = CASES[name]
    hf = CONFIG_MAPPING[model_type](**copy.deepcopy({**sizes_of(model_type), **fields})).to_dict()
    family = next(one for one in FAMILIES.values() if one.model_type == model_type)
    return family.to_config(hf)


def kinds_of_decoding(config: DecoderConfig) -> set[object]:
    """What decides how a token reads the prefix, the cache and its position.

    Norms, activations, residuals and routers are not among it: they see each token by itself.
    """
    kinds: set[object] = set()
    for layer in _layers(config):
        rope = layer.rope
        position = "none" if rope is None else rope.original_max_positions is not None
        borrows = layer.kv_shared_with is not None
        kinds.add((*_mixing(config, layer), position, borrows, layer.attention_k_eq_v))
    kinds |= {("keys and values", size) for size in _differing_sizes(config)}
    named = (name for name in (*OF_ATTENTION, *OF_EMBEDDING) if getattr(config, name))
    return kinds | {*named, _bias(config)}


def kinds_at_any_length(config: DecoderConfig) -> set[object]:
    """What decides how a token reads others that are thousands of tokens away."""
    kinds: set[object] = {
        (*_mixing(config, layer), layer.rope and layer.rope.rope_type) for layer in _layers(config)
    }
    return kinds | {*(name for name in OF_ATTENTION if getattr(config, name)), _bias(config)}


def kind_of_last_layer(config: DecoderConfig) -> object:
    """What decides which parts of the last layer are computed for the wanted tokens alone."""
    layer = _layers(config)[-1]
    sizes = (config.per_layer_embedding_dim, config.altup)
    parts = (layer.has_ffn, layer.is_moe, *map(bool, sizes))
    names = ("attention_gate", "residual", "dense_with_moe", "layer_scale", "pre_norm", "post_norm")
    names += ("norms_sums",)
    return (_mixing(config, layer)[0], *parts, *(getattr(config, name) for name in names))


OF_ATTENTION = ("attention_sinks", "attention_softcap", "attention_gate", "num_learned_positions")
OF_EMBEDDING = (
    "altup",
    "learned_position_offset",
    "per_layer_embedding_dim",
    "qk_norm_after_rope",
    "moe",
)
OF_EMBEDDING += ("input_norm", "token_embed_dim")


def _bias(config: DecoderConfig) -> object:
    """How far keys are put back by ALiBi, whatever the size of heads."""
    return None if config.alibi is None else ("alibi", config.alibi.in_bfloat16)


def _layers(config: DecoderConfig) -> list[LayerConfig]:
    return [config.layer_config(index) for index in range(config.num_layers)]


def _mixing(config: DecoderConfig, layer: LayerConfig) -> tuple[object, ...]:
    """How a layer mixes tokens, and which ones it sees."""
    if not layer.has_attention:
        return (type(config.mixer).__name__ if layer.has_state else "none",)
    kind = "attention" if config.latent_attention is None else "latent attention"
    kind += f" beside {type(config.mixer).__name__}" if layer.has_state else ""
    sees = (layer.window, layer.chunk, layer.query_scaling)
    return (kind, *(one is not None for one in sees))


def _differing_sizes(config: DecoderConfig) -> list[str]:
    """The names of sizes of keys and values in which the layers of one decoder differ."""
    layers = _layers(config)
    names = ("head_dim", "num_kv_heads")
    return [name for name in names if len({getattr(layer, name) for layer in layers}) > 1]
