"""One short file per decoder family; the key is the architecture that ``config.json`` names."""

from collections.abc import Mapping
from typing import Any

from adapt_jax.decoders.families import (
    cohere2,
    exaone4,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    glm4,
    gpt2,
    gpt_neox,
    granite,
    llama,
    ministral3,
    mistral,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
)
from adapt_jax.decoders.families.family import Family

FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        llama.FAMILY,
        mistral.FAMILY,
        mistral.MINISTRAL,
        ministral3.FAMILY,
        mixtral.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        qwen3_moe.FAMILY,
        gemma.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
        gemma4.FAMILY,
        gemma4.UNIFIED,
        phi3.FAMILY,
        olmo2.FAMILY,
        olmo3.FAMILY,
        smollm3.FAMILY,
        granite.FAMILY,
        seed_oss.FAMILY,
        glm4.FAMILY,
        starcoder2.FAMILY,
        stablelm.FAMILY,
        exaone4.FAMILY,
        cohere2.FAMILY,
        gpt2.FAMILY,
        gpt_neox.FAMILY,
    )
}
# Multimodal checkpoints, read as the text decoders inside; ``family_of`` says which that is.
FAMILIES |= {
    "Gemma3ForConditionalGeneration": gemma3.FAMILY,
    "Gemma4ForConditionalGeneration": gemma4.FAMILY,
    "Gemma4UnifiedForConditionalGeneration": gemma4.UNIFIED,
    "Mistral3ForConditionalGeneration": mistral.FAMILY,
}


def family_of(architecture: str, hf: Mapping[str, Any]) -> Family:
    """The family of a ``config.json`` whose architecture is one of FAMILIES.

    Raises:
        ValueError: the text decoder inside a multimodal checkpoint is of no known family.
    """
    if architecture == "MistralForCausalLM" and "layer_types" in hf:
        return mistral.MINISTRAL  # Ministral 8B calls itself so; transformers takes it for one too
    text = hf.get("text_config")
    if not isinstance(text, Mapping) or FAMILIES[architecture].architecture == architecture:
        return FAMILIES[architecture]
    kinds = {family.model_type: family for family in FAMILIES.values()}
    kind = text.get("model_type", FAMILIES[architecture].model_type)
    if kind not in kinds:
        raise ValueError(f"text_config: model_type {kind!r} is not supported")
    return kinds[kind]
