"""Gemma 4, text: full layers with heads of their own, experts beside the dense part, layer inputs.

A multimodal checkpoint is read without its towers and written as the text decoder that it is.
"""

from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig, MoEConfig
from adapt_jax.decoders.families import gemma2, gemma3
from adapt_jax.decoders.families.layers import FULL, HF, SLIDING, Layers
from adapt_jax.decoders.families.tables import LAYER, MULTIMODAL, OWN, norm
from adapt_jax.decoders.rope import Rope

MOE = OWN + "dense_with_moe."
MIXTURE = ("num_experts", "top_k_experts", "moe_intermediate_size")
TENSORS = (
    *gemma2.TENSORS,
    (LAYER + "layer_scalar", OWN + "scale", False),
    *norm(LAYER + "post_feedforward_layernorm_1", MOE + "dense_post_norm"),
    *norm(LAYER + "pre_feedforward_layernorm_2", MOE + "norm"),
    *norm(LAYER + "post_feedforward_layernorm_2", MOE + "post_norm"),
    (LAYER + "router.scale", MOE + "router_norm.scale", False),
    (LAYER + "router.proj.weight", MOE + "experts.router", False),
    (LAYER + "router.per_expert_scale", MOE + "experts.scale", False),
    (
        LAYER + "experts.gate_up_proj",
        (MOE + "experts.gate", MOE + "experts.up"),
        True,
    ),
    (LAYER + "experts.down_proj", MOE + "experts.down", True),
    ("model.embed_tokens_per_layer.weight", "per_layer_embeddings.embedding", False),
    ("model.per_layer_model_projection.weight", "per_layer_embeddings.projection.kernel", False),
    *norm("model.per_layer_projection_norm", "per_layer_embeddings.norm"),
    (LAYER + "per_layer_input_gate.weight", OWN + "per_layer_gate.gate.kernel", False),
    (LAYER + "per_layer_projection.weight", OWN + "per_layer_gate.output.kernel", False),
    *norm(LAYER + "post_per_layer_input_norm", OWN + "per_layer_gate.post_norm"),
)


def types(hf: HF) -> list[str]:
    """The type of each layer: five sliding ones to a full one, and the last one is full."""
    count = hf["num_hidden_layers"]
    silent = [SLIDING if (layer + 1) % 6 and layer + 1 < count else FULL for layer in range(count)]
    listed = list(hf.get("layer_types") or silent)
    if listed[-1] != FULL:
        raise ValueError(f"layer_types ends with {listed[-1]!r}; expected {FULL!r}")
    return listed


def full_heads(hf: HF) -> dict[str, int]:
    """Size and number of the key/value heads of full layers, where they are not those of the rest.

    Raises:
        ValueError: ``per_layer_config`` tells layers of one type apart, or tells something else.
    """
    listed = hf.get("per_layer_config")
    if listed is None:
        own = {"head_dim": hf.get("global_head_dim", 512)}
        count = hf.get("num_global_key_value_heads")
        if hf.get("attention_k_eq_v") and count is not None:
            own["num_key_value_heads"] = count
        return own
    listed = {int(layer): told for layer, told in listed.items()}
    full = [layer for layer, name in enumerate(types(hf)) if name == FULL]
    own = dict(listed.get(full[0], {}))
    if listed != ({layer: own for layer in full} if own else {}):
        raise ValueError("per_layer_config tells layers of the same type apart")
    if unknown := own.keys() - {"head_dim", "num_key_value_heads"}:
        raise ValueError(f"per_layer_config: {', '.join(sorted(unknown))} is not supported")
    return own


def change(hf: HF, layer: int, kind: LayerConfig) -> LayerConfig:
    """Heads and values of full layers, and the last layers, which keep no keys and values."""
    names = types(hf)
    if names[layer] == FULL:
        own = full_heads(hf)
        kind = replace(
            kind,
            head_dim=own.get("head_dim") or hf.get("head_dim", 256),
            num_kv_heads=own.get("num_key_value_heads") or hf.get("num_key_value_heads", 4),
            attention_k_eq_v=bool(hf.get("attention_k_eq_v")),
        )
    first = len(names) - hf.get("num_kv_shared_layers", 0)
    if layer < first:
        return kind
    if names[layer] not in names[:first]:
        raise ValueError(f"num_kv_shared_layers leaves no {names[layer]} layer to read from")
    reads = first - 1 - names[:first][::-1].index(names[layer])
    wide = 2 * hf["intermediate_size"] if hf.get("use_double_wide_mlp") else 0
    return replace(kind, attention_k_eq_v=False, kv_shared_with=reads, ffn_dim=wide)


def derived(hf: HF) -> HF:
    """The scale of embeddings, the mixture of experts, and how many tokens tell the layers."""
    values: dict[str, Any] = {"embedding_scale": hf["hidden_size"] ** 0.5}
    if hf.get("enable_moe_block"):
        count, per_token, ffn_dim = (hf.get(name) for name in MIXTURE)
        if count is None or per_token is None or ffn_dim is None:
            raise ValueError(f"enable_moe_block: expected {', '.join(MIXTURE)} with it")
        values |= {"moe": MoEConfig(count, per_token, ffn_dim), "dense_with_moe": True}
    if hf.get("hidden_size_per_layer_input", 256):
        vocabulary = hf.get("vocab_size_per_layer_input", 262144)
        if vocabulary < hf["vocab_size"]:
            raise ValueError(
                f"vocab_size_per_layer_input {vocabulary}; expected at least {hf['vocab_size']}"
            )
        values["per_layer_embedding_vocab"] = vocabulary
    return values


def spelled(config: DecoderConfig) -> HF:
    """The same in the words of ``config.json``, as newer and older files have them."""
    kinds = [config.layer_config(index) for index in range(config.num_layers)]
    full = next(kind for kind in kinds if kind.window is None)
    own = {"head_dim": full.head_dim, "num_key_value_heads": full.num_kv_heads}
    moe = config.moe
    mixture = (None,) * 3 if moe is None else (moe.num_experts, moe.experts_per_token, moe.ffn_dim)
    return {
        "per_layer_config": {
            str(layer): own for layer, kind in enumerate(kinds) if kind.window is None
        },
        "global_head_dim": full.head_dim,
        "num_global_key_value_heads": full.num_kv_heads,
        "attention_k_eq_v": any(kind.attention_k_eq_v for kind in kinds),
        "num_kv_shared_layers": config.num_layers - len(config.layers_with_kv_cache),
        "use_double_wide_mlp": any(kind.ffn_dim != config.ffn_dim for kind in kinds),
        "enable_moe_block": config.dense_with_moe,
        **dict(zip(MIXTURE, mixture, strict=True)),
        "vocab_size_per_layer_input": config.per_layer_embedding_vocab or config.vocab_size,
    }


def unread(config: DecoderConfig) -> tuple[str, ...]:
    """Keys and values that files hold for layers which read those of another."""
    readers = sorted(set(range(config.num_layers)) - set(config.layers_with_kv_cache))
    parts = ("k_proj", "v_proj", "k_norm", "v_norm")
    return tuple(f"model.layers.{layer}.self_attn.{part}.*" for layer in readers for part in parts)


UNREAD = ("*vision_embedder.*", "*embed_vision.*", "*audio_tower.*", "*embed_audio.*")
FAMILY = replace(
    gemma3.FAMILY,
    architecture="Gemma4ForCausalLM",
    model_type="gemma4_text",
    tensors=TENSORS,
    fields={
        **gemma3.FAMILY.fields,
        "per_layer_embedding_dim": ("hidden_size_per_layer_input", 256),
    },
    fixed={
        "post_norm": True,
        "qk_norm": "head",
        "value_norm": True,
        "layer_scale": True,
        "attention_scale": 1.0,
    },
    derived=derived,
    spelled=spelled,
    must_be={
        "use_bidirectional_attention": (None, "vision", False),  # of images, if at all
        "rope_scaling": (None,),
        "rope_theta": (None,),
    },
    allows_per_layer_config=True,
    layers=Layers(
        rope=Rope("proportional", theta=1e6, fraction=0.25),
        theta="",
        sliding_rope=Rope(theta=1e4),
        window=lambda hf: hf.get("sliding_window", 512),
        slides=lambda hf, layer: types(hf)[layer] == SLIDING,
        change=change,
    ),
    unread=unread,
    ignored=(*MULTIMODAL["ignored"], *UNREAD),
    renamed=MULTIMODAL["renamed"],
)
# The same without experts and layer inputs, in checkpoints whose images and sounds need no tower.
UNIFIED = replace(
    FAMILY,
    architecture="Gemma4UnifiedForCausalLM",
    model_type="gemma4_unified_text",
    fields={**gemma3.FAMILY.fields, "context_length": ("max_position_embeddings", 262144)},
    derived=lambda hf: {"embedding_scale": hf["hidden_size"] ** 0.5},
    must_be={
        **FAMILY.must_be,
        "use_bidirectional_attention": ("vision", None, False),
        "enable_moe_block": (False,),
        "hidden_size_per_layer_input": (0,),
    },
    layers=replace(FAMILY.layers, window=lambda hf: hf.get("sliding_window", 1024)),
)
