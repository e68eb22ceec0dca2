"""SmolLM3: Llama whose every fourth layer knows no positions (2501.18795)."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, FIELDS, MLP_BIAS, TENSORS
from adapt_jax.decoders.rope import Rope


def turns(hf: HF, layer: int) -> bool:
    """Whether a layer has rotary positions (``no_rope_layers`` says 1 where it has)."""
    if hf.get("no_rope_layers") is not None:
        return bool(hf["no_rope_layers"][layer])
    return (layer + 1) % hf.get("no_rope_layer_interval", 4) != 0


def spelled(config: DecoderConfig) -> HF:
    """Which layers have rotary positions, and whether some slide."""
    kinds = [config.layer_config(n) for n in range(config.num_layers)]
    return {
        "no_rope_layers": [int(kind.rope is not None) for kind in kinds],
        "use_sliding_window": any(kind.window is not None for kind in kinds),
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
    spelled=spelled,
    layers=Layers(
        rope=Rope(theta=2e6),
        window=lambda hf: hf.get("sliding_window") if hf.get("use_sliding_window") else None,
        slides=lambda hf, layer: bool(
            hf.get("use_sliding_window") and hf.get("sliding_window") and not turns(hf, layer)
        ),
        change=lambda hf, layer, kind: kind if turns(hf, layer) else replace(kind, rope=None),
    ),
)
