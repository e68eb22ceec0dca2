"""Gemma 4, text: heads of full layers, dense layers with experts, per-layer embeddings.

A multimodal checkpoint is read without its towers, and written as a text decoder.
"""

from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig, MoEConfig
from adapt_jax.decoders.families import gemma2, gemma3
from adapt_jax.decoders.families.layer_rules import FULL, SLIDING, HFConfig, LayerRules
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, MULTIMODAL, norm
from adapt_jax.decoders.rope import Rope

MOE = LAYER + "dense_with_moe."
MOE_FIELDS = ("num_experts", "top_k_experts", "moe_intermediate_size")
TENSORS = (
    *gemma2.TENSORS,
    (HF_LAYER + "layer_scalar", LAYER + "scale", False),
    *norm(HF_LAYER + "post_feedforward_layernorm_1", MOE + "dense_post_norm"),
    *norm(HF_LAYER + "pre_feedforward_layernorm_2", MOE + "norm"),
    *norm(HF_LAYER + "post_feedforward_layernorm_2", MOE + "post_norm"),
    (HF_LAYER + "router.scale", MOE + "router_norm.scale", False),
    (HF_LAYER + "router.proj.weight", MOE + "experts.router", False),
    (HF_LAYER + "router.per_expert_scale", MOE + "experts.scale", False),
    (
        HF_LAYER + "experts.gate_up_proj",
        (MOE + "experts.gate", MOE + "experts.up"),
        True,
    ),
    (HF_LAYER + "experts.down_proj", MOE + "experts.down", True),
    ("model.embed_tokens_per_layer.weight", "per_layer_embeddings.embedding", False),
    ("model.per_layer_model_projection.weight", "per_layer_embeddings.projection.kernel", False),
    *norm("model.per_layer_projection_norm", "per_layer_embeddings.norm"),
    (HF_LAYER + "per_layer_input_gate.weight", LAYER + "per_layer_gate.gate.kernel", False),
    (HF_LAYER + "per_layer_projection.weight", LAYER + "per_layer_gate.output.kernel", False),
    *norm(HF_LAYER + "post_per_layer_input_norm", LAYER + "per_layer_gate.post_norm"),
)


def _read_layer_types(hf: HFConfig) -> list[str]:
    """The type of each layer; by default five sliding ones precede a full one.

    Raises:
        ValueError: the last layer is not a full one.
    """
    count = hf["num_hidden_layers"]
    default = [SLIDING if (n + 1) % 6 and n + 1 < count else FULL for n in range(count)]
    layer_types = list(hf.get("layer_types") or default)
    if layer_types[-1] != FULL:
        raise ValueError(f"layer_types ends with {layer_types[-1]!r}; expected {FULL!r}")
    return layer_types


def _read_full_heads(hf: HFConfig) -> dict[str, int]:
    """Size and number of the key/value heads of full layers, where they differ from the others'.

    Newer files list them in ``per_layer_config``.

    Raises:
        ValueError: ``per_layer_config`` distinguishes layers of one type, or has other fields.
    """
    listed = hf.get("per_layer_config")
    if listed is None:
        heads = {"head_dim": hf.get("global_head_dim", 512)}
        count = hf.get("num_global_key_value_heads")
        if hf.get("attention_k_eq_v") and count is not None:
            heads["num_key_value_heads"] = count
        return heads
    listed = {int(index): fields for index, fields in listed.items()}
    full = [index for index, name in enumerate(_read_layer_types(hf)) if name == FULL]
    heads = dict(listed.get(full[0], {}))
    if listed != (dict.fromkeys(full, heads) if heads else {}):
        raise ValueError("per_layer_config distinguishes layers of the same type")
    if unknown := heads.keys() - {"head_dim", "num_key_value_heads"}:
        raise ValueError(f"per_layer_config: {', '.join(sorted(unknown))} is not supported")
    return heads


def share_kv(
    layer_types: list[str], index: int, layer: LayerConfig, num_shared: int
) -> LayerConfig:
    """One of the last ``num_shared`` layers has the keys and values of an earlier one.

    That is the last layer of the same type that has its own.

    Raises:
        ValueError: there is none.
    """
    first_shared = len(layer_types) - num_shared
    if index < first_shared:
        return layer
    sources = [n for n in range(first_shared) if layer_types[n] == layer_types[index]]
    if not sources:
        raise ValueError(f"num_kv_shared_layers leaves no {layer_types[index]} layer to read from")
    return replace(layer, kv_shared_with=sources[-1])


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Full layers have heads of their own; the last layers share keys and values."""
    layer_types = _read_layer_types(hf)
    if layer_types[index] == FULL:
        heads = _read_full_heads(hf)
        layer = replace(
            layer,
            head_dim=heads.get("head_dim") or hf.get("head_dim", 256),
            num_kv_heads=heads.get("num_key_value_heads") or hf.get("num_key_value_heads", 4),
            attention_k_eq_v=bool(hf.get("attention_k_eq_v")),
        )
    layer = share_kv(layer_types, index, layer, hf.get("num_kv_shared_layers", 0))
    if layer.kv_shared_with is None:
        return layer
    ffn_dim = 2 * hf["intermediate_size"] if hf.get("use_double_wide_mlp") else 0
    return replace(layer, attention_k_eq_v=False, ffn_dim=ffn_dim)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The scale of embeddings, the mixture of experts, and the per-layer vocabulary."""
    values: dict[str, Any] = {"embedding_scale": hf["hidden_size"] ** 0.5}
    if hf.get("enable_moe_block"):
        sizes = [size for name in MOE_FIELDS if isinstance(size := hf.get(name), int)]
        if len(sizes) < len(MOE_FIELDS):
            names = ", ".join(MOE_FIELDS)
            raise ValueError(f"enable_moe_block: expected a number for each of {names} with it")
        num_experts, per_token, ffn_dim = sizes
        values |= {"moe": MoEConfig(num_experts, per_token, ffn_dim), "dense_with_moe": True}
    if hf.get("hidden_size_per_layer_input", 256):
        vocabulary = hf.get("vocab_size_per_layer_input", 262144)
        if vocabulary < hf["vocab_size"]:
            raise ValueError(
                f"vocab_size_per_layer_input {vocabulary}; expected at least {hf['vocab_size']}"
            )
        values["per_layer_embedding_vocab"] = vocabulary
    return values


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """Full heads, shared layers, experts and per-layer vocabulary, as newer and older files do."""
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    full = [index for index, layer in enumerate(layers) if layer.window is None]
    full_layer, moe = layers[full[0]], config.moe
    heads = {"head_dim": full_layer.head_dim, "num_key_value_heads": full_layer.num_kv_heads}
    sizes = (None,) * 3 if moe is None else (moe.num_experts, moe.experts_per_token, moe.ffn_dim)
    return {
        "per_layer_config": {str(index): heads for index in full},
        "global_head_dim": full_layer.head_dim,
        "num_global_key_value_heads": full_layer.num_kv_heads,
        "attention_k_eq_v": any(layer.attention_k_eq_v for layer in layers),
        "num_kv_shared_layers": config.num_layers - len(config.layers_with_kv_cache),
        "use_double_wide_mlp": any(layer.ffn_dim != config.ffn_dim for layer in layers),
        "enable_moe_block": config.dense_with_moe,
        **dict(zip(MOE_FIELDS, sizes, strict=True)),
        "vocab_size_per_layer_input": config.per_layer_embedding_vocab or config.vocab_size,
    }


def _ignored_tensors_for(config: DecoderConfig) -> tuple[str, ...]:
    """Projections that files hold for layers which share the keys and values of another."""
    sharing = sorted(set(range(config.num_layers)) - set(config.layers_with_kv_cache))
    modules = ("k_proj", "v_proj", "k_norm", "v_norm")
    return tuple(f"model.layers.{n}.self_attn.{module}.*" for n in sharing for module in modules)


# Towers for images and sounds.
TOWERS = ("*vision_embedder.*", "*embed_vision.*", "*audio_tower.*", "*embed_audio.*")
FAMILY = replace(
    gemma3.FAMILY,
    architecture="Gemma4ForCausalLM",
    model_type="gemma4_text",
    tensors=TENSORS,
    fields={
        **gemma3.FAMILY.fields,
        "per_layer_embedding_dim": ("hidden_size_per_layer_input", 256),
    },
    fixed_fields={
        "post_norm": True,
        "qk_norm": "head",
        "value_norm": True,
        "layer_scale": True,
        "attention_scale": 1.0,
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={
        "use_bidirectional_attention": (None, "vision", False),  # "vision": of images alone
        "rope_scaling": (None,),
        "rope_theta": (None,),
    },
    allows_per_layer_config=True,
    layer_rules=LayerRules(
        rope=Rope("proportional", theta=1e6, partial_rotary_factor=0.25),
        theta_field="",
        sliding_rope=Rope(theta=1e4),
        window=lambda hf: hf.get("sliding_window", 512),
        is_sliding=lambda hf, index: _read_layer_types(hf)[index] == SLIDING,
        adjust=_adjust_layer,
    ),
    ignored_tensors_for=_ignored_tensors_for,
    ignored_tensors=(*MULTIMODAL["ignored_tensors"], *TOWERS),
    prefix_aliases=MULTIMODAL["prefix_aliases"],
)
# The same without experts and per-layer embeddings; its images and sounds need no tower.
UNIFIED = replace(
    FAMILY,
    architecture="Gemma4UnifiedForCausalLM",
    model_type="gemma4_unified_text",
    fields={**gemma3.FAMILY.fields, "context_length": ("max_position_embeddings", 262144)},
    computed_fields=lambda hf: {"embedding_scale": hf["hidden_size"] ** 0.5},
    supported_values={
        **FAMILY.supported_values,
        "use_bidirectional_attention": ("vision", None, False),
        "enable_moe_block": (False,),
        "hidden_size_per_layer_input": (0,),
    },
    layer_rules=replace(FAMILY.layer_rules, window=lambda hf: hf.get("sliding_window", 1024)),
)
