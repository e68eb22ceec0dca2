"""Ministral 3: Mistral with YaRN, and queries scaled by position beyond 16,384 tokens."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import mistral
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.rope import ORIGINAL_MAX_POSITIONS, Rope

BETA = "llama_4_scaling_beta"
YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    ORIGINAL_MAX_POSITIONS: 16384,
}


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Scales queries; the fields for it are among those of the rotary positions."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {**YARN, BETA: 0.1}
    if rope.get(BETA) is None:
        return layer
    original = rope.get(ORIGINAL_MAX_POSITIONS) or hf.get("max_position_embeddings", 262144)
    return replace(layer, query_scaling=(float(rope[BETA]), int(original), 0))


LAYER_RULES = LayerRules(
    rope=Rope("yarn", theta=1e6, params=tuple(sorted(YARN.items()))),
    window=lambda hf: hf.get("sliding_window"),
    adjust=_adjust_layer,
)


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The rotary positions, with the scaling of queries among them."""
    rope = LAYER_RULES.to_hf(config)["rope_parameters"]
    if (scaling := config.layer_config(0).query_scaling) is not None:
        rope = {**rope, BETA: scaling[0], ORIGINAL_MAX_POSITIONS: scaling[1]}
    return {"rope_parameters": rope, "rope_scaling": rope}


FAMILY = replace(
    mistral.FAMILY,
    architecture="Ministral3ForCausalLM",
    model_type="ministral3",
    fields={
        **mistral.FAMILY.fields,
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 262144),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "pad_id": ("pad_token_id", 11),
    },
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LAYER_RULES,
)
