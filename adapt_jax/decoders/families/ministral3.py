"""Ministral 3: Mistral with YaRN, and queries scaled by position beyond 16,384 tokens."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
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
LAYER_RULES = LayerRules(
    rope=Rope("yarn", theta=1e6, params=tuple(sorted(YARN.items()))),
    window=lambda hf: hf.get("sliding_window"),
)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The scaling of queries, whose fields are among those of the rotary positions."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {**YARN, BETA: 0.1}
    if rope.get(BETA) is None:
        return {}
    original = rope.get(ORIGINAL_MAX_POSITIONS) or hf.get("max_position_embeddings", 262144)
    return {"llama_4_scaling": (float(rope[BETA]), int(original))}


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The rotary positions, with the scaling of queries among them."""
    rope = LAYER_RULES.to_hf(config)["rope_parameters"]
    if config.llama_4_scaling is not None:
        rope = {
            **rope,
            BETA: config.llama_4_scaling[0],
            ORIGINAL_MAX_POSITIONS: config.llama_4_scaling[1],
        }
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
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LAYER_RULES,
)
