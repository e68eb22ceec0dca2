"""SmolLM3: Llama with every fourth layer without positions (2501.18795)."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, MLP_BIAS, TENSORS
from adapt_jax.decoders.rope import Rope


def _has_rope(hf: HFConfig, index: int) -> bool:
    """Whether a layer has rotary positions (1 in ``no_rope_layers``)."""
    if hf.get("no_rope_layers") is not None:
        return bool(hf["no_rope_layers"][index])
    return (index + 1) % hf.get("no_rope_layer_interval", 4) != 0


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """Which layers have rotary positions, and whether some slide."""
    layers = [config.layer_config(n) for n in range(config.num_layers)]
    return {
        "no_rope_layers": [int(layer.rope is not None) for layer in layers],
        "use_sliding_window": any(layer.window is not None for layer in layers),
    }


FAMILY = Family(
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    tensors=TENSORS,
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **MLP_BIAS,
        "num_kv_heads": ("num_key_value_heads", 4),
        "context_length": ("max_position_embeddings", 32768),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 128000),
        "eos_ids": ("eos_token_id", 128001),
        "pad_id": ("pad_token_id", 128004),
    },
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope(theta=2e6),
        window=lambda hf: hf.get("sliding_window") if hf.get("use_sliding_window") else None,
        is_sliding=lambda hf, index: bool(
            hf.get("use_sliding_window") and hf.get("sliding_window") and not _has_rope(hf, index)
        ),
        adjust=lambda hf, index, layer: (
            layer if _has_rope(hf, index) else replace(layer, rope=None)
        ),
    ),
)
