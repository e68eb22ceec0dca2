"""Phi-3.5-MoE (2404.14219): SparseMixer routing, layer norms with biases, LongRoPE."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import mixtral
from adapt_jax.decoders.families.experts import FUSED_EXPERTS, give_all_layers_experts
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import ATTENTION_BIAS, HF_LAYER, LAYER
from adapt_jax.decoders.rope import Rope

SCALES = ("short_mscale", "long_mscale")


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Experts; with LongRoPE, the file says by what cosine and sine are multiplied.

    Beyond the pretrained length the long factors apply, as in Microsoft's own code. transformers
    5.24 keeps the short ones.

    Raises:
        ValueError: another rope type, or scales that are absent or differ.
    """
    rope = layer.rope
    assert rope is not None
    layer = give_all_layers_experts(hf, index, layer)
    if rope.rope_type == "default":
        return layer
    if rope.rope_type != "longrope":
        raise ValueError(f"rope_type {rope.rope_type!r}; supported: default, longrope")
    given = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    short, long = (given.get(name) for name in SCALES)
    if short is None or short != long:
        raise ValueError(f"short_mscale {short} and long_mscale {long}; expected the same number")
    params = dict(rope.params) | {"attention_factor": float(short)}
    return replace(layer, rope=replace(rope, params=tuple(sorted(params.items()))))


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The share of the router, and the scales of LongRoPE, in both spellings."""
    assert config.moe is not None and config.moe.sparse_mixer is not None
    fields = {"router_jitter_noise": config.moe.sparse_mixer / 2}
    written = RULES.to_hf(config)
    factor = written["rope_parameters"].pop("attention_factor", None)
    if factor is None:
        return fields
    scaled = written["rope_parameters"] | dict.fromkeys(SCALES, factor)
    return {**fields, "rope_parameters": scaled, "rope_scaling": scaled}


RULES = LayerRules(
    rope=Rope(theta=1e6), window=lambda hf: hf.get("sliding_window"), adjust=_adjust_layer
)
FAMILY = Family(
    architecture="PhimoeForCausalLM",
    model_type="phimoe",
    tensors=(*mixtral.FAMILY.tensors, ("lm_head.bias", "output.bias", False)),
    # as transformers 5 holds them in memory
    other_tensors=((HF_LAYER + "mlp.router.weight", LAYER + "ffn.router", False), *FUSED_EXPERTS),
    fields={
        **mixtral.FAMILY.fields,
        **ATTENTION_BIAS,
        "lm_head_bias": ("lm_head_bias", False),
    },
    fixed_fields={"norm": "layer", "norm_bias": True},
    moe_fields={**mixtral.FAMILY.moe_fields, "num_experts": ("num_local_experts", 16)},
    computed_moe_fields=lambda hf: {"sparse_mixer": 2 * hf.get("router_jitter_noise", 0.01)},
    extra_hf_fields=_extra_hf_fields,
    supported_values={"num_experts_per_tok": (2,)},
    layer_rules=RULES,
)
