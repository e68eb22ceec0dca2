"""Gemma 3n, text (Google, 2025): streams of hidden states, sparse gates, per-layer embeddings.

A multimodal checkpoint is read without its towers, and written as a text decoder.
"""

from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import gemma4
from adapt_jax.decoders.families.family import TensorRow
from adapt_jax.decoders.families.layer_rules import FULL, SLIDING, HFConfig, LayerRules
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, norm
from adapt_jax.decoders.part_configs import AltUpConfig
from adapt_jax.decoders.rope import Rope

ALTUP, LAUREL = LAYER + "altup.", LAYER + "laurel."
SHARED_ROWS = tuple(row for row in gemma4.TENSORS if gemma4.MOE not in str(row))
TENSORS = (
    *SHARED_ROWS,
    (HF_LAYER + "altup.correct_output_scale", ALTUP + "output_scale", False),
    (HF_LAYER + "altup.correction_coefs.weight", ALTUP + "correction.kernel", False),
    (HF_LAYER + "altup.prediction_coefs.weight", ALTUP + "prediction.kernel", False),
    (HF_LAYER + "altup.modality_router.weight", ALTUP + "router.kernel", False),
    *norm(HF_LAYER + "altup.router_norm", ALTUP + "router_norm"),
    (HF_LAYER + "laurel.linear_left.weight", LAUREL + "left.kernel", False),
    (HF_LAYER + "laurel.linear_right.weight", LAUREL + "right.kernel", False),
    *norm(HF_LAYER + "laurel.post_laurel_norm", LAUREL + "post_norm"),
)


def _list_stream_rows(config: DecoderConfig) -> tuple[TensorRow, ...]:
    """The projections of each stream but the first, before and after the layers."""
    assert config.altup is not None
    names = (("altup_projections", "spread"), ("altup_unembed_projections", "gather"))
    return tuple(
        (f"model.{hf}.{stream}.weight", f"streams.{ours}.{stream}.kernel", False)
        for hf, ours in names
        for stream in range(config.altup.num_streams - 1)
    )


def _read_list(hf: HFConfig, name: str, default: Any) -> list[Any]:
    """A number for each layer, where one number stands for all.

    Raises:
        ValueError: more or fewer than layers.
    """
    value = default if hf.get(name) is None else hf[name]
    count = hf["num_hidden_layers"]
    listed = list(value) if isinstance(value, list) else [value] * count
    if len(listed) != count:
        raise ValueError(f"{name} has {len(listed)} entries for {count} layers")
    return listed


def _read_layer_types(hf: HFConfig) -> list[str]:
    """The type of each layer; by default four sliding ones precede a full one."""
    count = hf["num_hidden_layers"]
    return hf.get("layer_types") or [SLIDING if (n + 1) % 5 else FULL for n in range(count)]


def _read_sparsity(hf: HFConfig) -> list[float]:
    """The share of gates that become zero in each layer; by default in the first of many layers."""
    count = hf["num_hidden_layers"]
    sparse = 10 if count > 10 else 0
    default = [0.95] * sparse + [0.0] * (count - sparse)
    return _read_list(hf, "activation_sparsity_pattern", default)


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """The size of the feed-forward layer, its sparsity, and the keys and values that are shared."""
    layer = replace(
        layer,
        ffn_dim=_read_list(hf, "intermediate_size", 16384)[index],
        activation_sparsity=float(_read_sparsity(hf)[index]),
    )
    num_shared = hf.get("num_kv_shared_layers", 15)
    return gemma4.share_kv(_read_layer_types(hf), index, layer, num_shared)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The scale of embeddings, the streams, the sizes of feed-forward layers and vocabularies."""
    return {
        "embedding_scale": hf["hidden_size"] ** 0.5,
        "ffn_dim": max(_read_list(hf, "intermediate_size", 16384)),
        "per_layer_embedding_vocab": hf.get("vocab_size_per_layer_input", 262144),
        "altup": AltUpConfig(
            num_streams=hf.get("altup_num_inputs", 4),
            active=hf.get("altup_active_idx", 0),
            scales_output=hf.get("altup_correct_scale", True),
            laurel_rank=hf.get("laurel_rank", 64),
        ),
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The streams, and what each layer has."""
    altup = config.altup
    assert altup is not None
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    return {
        "intermediate_size": [layer.ffn_dim for layer in layers],
        "activation_sparsity_pattern": [layer.activation_sparsity for layer in layers],
        "num_kv_shared_layers": config.num_layers - len(config.layers_with_kv_cache),
        "layer_types": [FULL if layer.window is None else SLIDING for layer in layers],
        "vocab_size_per_layer_input": config.per_layer_embedding_vocab,
        "altup_num_inputs": altup.num_streams,
        "altup_active_idx": altup.active,
        "altup_correct_scale": altup.scales_output,
        "laurel_rank": altup.laurel_rank,
    }


FAMILY = replace(
    gemma4.FAMILY,
    architecture="Gemma3nForCausalLM",
    model_type="gemma3n_text",
    tensors=TENSORS,
    tensors_for=_list_stream_rows,
    fields={
        **{name: row for name, row in gemma4.FAMILY.fields.items() if name != "ffn_dim"},
        "num_kv_heads": ("num_key_value_heads", 2),
        "context_length": ("max_position_embeddings", 32768),
        "logit_softcap": ("final_logit_softcapping", 30.0),
    },
    fixed_fields={
        "post_norm": True,
        "qk_norm": "head",
        "value_norm": True,
        "attention_scale": 1.0,
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={},
    allows_per_layer_config=False,
    needs_tokens=lambda config: True,
    layer_rules=LayerRules(
        rope=Rope(theta=1e6),
        sliding_rope=Rope(theta=1e4),
        sliding_theta_field="rope_local_base_freq",
        window=lambda hf: hf.get("sliding_window", 512),
        is_sliding=lambda hf, index: _read_layer_types(hf)[index] == SLIDING,
        adjust=_adjust_layer,
    ),
)
