"""One short file per decoder family, registered by the architecture that ``config.json`` names."""

from collections.abc import Mapping
from typing import Any

from adapt_jax.decoders.families import (
    apertus,
    arcee,
    bamba,
    bloom,
    cohere,
    cohere2,
    deepseek,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone4,
    falcon,
    falcon_h1,
    gemma,
    gemma2,
    gemma3,
    gemma3n,
    gemma4,
    glm,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granitemoe,
    granitemoehybrid,
    helium,
    hunyuan_v1_dense,
    hunyuan_v1_moe,
    jais2,
    lfm2,
    llama,
    llama4,
    mamba,
    mamba2,
    minicpm3,
    minimax_m2,
    ministral3,
    mistral,
    mixtral,
    mpt,
    nemotron,
    nemotron_h,
    olmo,
    olmo2,
    olmo3,
    olmoe,
    opt,
    persimmon,
    phi,
    phi3,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
    vaultgemma,
    youtu,
)
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.multimodal import TEXT_DECODERS, make_multimodal_family
from adapt_jax.utils.registry import Registry

__all__ = ["FAMILIES", "Family", "find_family"]

FAMILIES: Registry[Family] = Registry("decoder family")

for _family in (
    llama.FAMILY,
    mistral.FAMILY,
    mistral.MINISTRAL,
    ministral3.FAMILY,
    mixtral.FAMILY,
    minimax_m2.FAMILY,
    phimoe.FAMILY,
    minicpm3.FAMILY,
    deepseek.V2,
    deepseek.V3,
    glm4_moe_lite.FAMILY,
    youtu.FAMILY,
    llama4.FAMILY,
    qwen2.FAMILY,
    qwen2_moe.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    gemma3n.FAMILY,
    gemma4.FAMILY,
    gemma4.UNIFIED,
    phi3.FAMILY,
    olmo2.FAMILY,
    olmo3.FAMILY,
    olmoe.FAMILY,
    smollm3.FAMILY,
    granite.FAMILY,
    granitemoe.FAMILY,
    granitemoe.SHARED,
    seed_oss.FAMILY,
    glm4.FAMILY,
    glm4_moe.FAMILY,
    dots1.FAMILY,
    starcoder2.FAMILY,
    stablelm.FAMILY,
    exaone4.FAMILY,
    lfm2.FAMILY,
    lfm2.MOE,
    granitemoehybrid.FAMILY,
    mamba.FAMILY,
    mamba.FALCON,
    mamba2.FAMILY,
    nemotron_h.FAMILY,
    qwen3_5.FAMILY,
    qwen3_next.FAMILY,
    qwen3_next.QWEN3_5_MOE,
    cohere2.FAMILY,
    gpt2.FAMILY,
    gpt_neox.FAMILY,
    gptj.FAMILY,
    phi.FAMILY,
    opt.FAMILY,
    falcon.FAMILY,
    falcon_h1.FAMILY,
    bloom.FAMILY,
    mpt.FAMILY,
    gpt_neo.FAMILY,
    apertus.FAMILY,
    arcee.FAMILY,
    bamba.FAMILY,
    cohere.FAMILY,
    ernie4_5.FAMILY,
    ernie4_5_moe.FAMILY,
    glm.FAMILY,
    helium.FAMILY,
    hunyuan_v1_dense.FAMILY,
    hunyuan_v1_moe.FAMILY,
    jais2.FAMILY,
    nemotron.FAMILY,
    olmo.FAMILY,
    persimmon.FAMILY,
    vaultgemma.FAMILY,
    gpt_oss.FAMILY,
):
    FAMILIES.register(_family.architecture)(_family)

# Multimodal checkpoints have the family of their usual text decoder; ``find_family`` finds which
# one it is. Some text decoders are of model types that only such checkpoints have.
_TEXT_FAMILIES = {
    family.model_type: family
    for family in (*FAMILIES.values(), qwen2.VL, qwen2.VL_2_5, qwen3.VL, qwen3_moe.VL, glm4.VL)
}
for _architecture, (_, _text_type) in TEXT_DECODERS.items():
    FAMILIES.register(_architecture)(make_multimodal_family(_TEXT_FAMILIES[_text_type]))


def find_family(architecture: str, hf: Mapping[str, Any]) -> Family:
    """The family of a ``config.json`` whose architecture is one of FAMILIES.

    Raises:
        ValueError: the text decoder inside a multimodal checkpoint is of no known family.
    """
    if architecture == "MistralForCausalLM" and "layer_types" in hf:
        return mistral.MINISTRAL  # Ministral 8B names this architecture; transformers knows it, too
    family, text = FAMILIES[architecture], hf.get("text_config")
    if architecture not in TEXT_DECODERS or not isinstance(text, Mapping):
        return family
    model_type = text.get("model_type", family.model_type)
    by_model_type = {one.model_type: one for one in FAMILIES.values()}
    if model_type not in by_model_type:
        raise ValueError(f"text_config: model_type {model_type!r} is not supported")
    return make_multimodal_family(by_model_type[model_type])
