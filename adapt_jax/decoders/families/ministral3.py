"""Ministral 3: Mistral with YaRN, and queries that grow with their position past 16,384."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import mistral
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.rope import ORIGINAL, Rope

BETA = "llama_4_scaling_beta"
YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    ORIGINAL: 16384,
}
LAYERS = Layers(
    rope=Rope("yarn", theta=1e6, numbers=tuple(sorted(YARN.items()))),
    window=lambda hf: hf.get("sliding_window"),
)


def derived(hf: HF) -> HF:
    """How queries grow: the fields stand among those of the rotary positions."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {**YARN, BETA: 0.1}
    if rope.get(BETA) is None:
        return {}
    original = rope.get(ORIGINAL) or hf.get("max_position_embeddings", 262144)
    return {"query_growth": (float(rope[BETA]), int(original))}


def spelled(config: DecoderConfig) -> HF:
    """The rotary positions, with the growth of queries among them."""
    rope = LAYERS.write(config)["rope_parameters"]
    if config.llama_4_scaling is not None:
        rope = {**rope, BETA: config.llama_4_scaling[0], ORIGINAL: config.llama_4_scaling[1]}
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
    derived=derived,
    spelled=spelled,
    layers=LAYERS,
)
