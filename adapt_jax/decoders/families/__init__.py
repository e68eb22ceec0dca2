"""One short file per decoder family; the key is the architecture that ``config.json`` names."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import (
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    granite,
    llama,
    mistral,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.tensors import ParameterPath, Stored

FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        llama.FAMILY,
        mistral.FAMILY,
        mistral.MINISTRAL,
        mixtral.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        qwen3_moe.FAMILY,
        gemma.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
        phi3.FAMILY,
        olmo2.FAMILY,
        olmo3.FAMILY,
        smollm3.FAMILY,
        granite.FAMILY,
        gpt2.FAMILY,
        gpt_neox.FAMILY,
    )
}
# Read as the text decoder inside.
FAMILIES["Gemma3ForConditionalGeneration"] = gemma3.FAMILY


def tensor_names(family: Family, config: DecoderConfig) -> dict[ParameterPath, Stored]:
    """Each parameter's path -> where it lies in a checkpoint.

    The table holds all that the family may have; a decoder without biases lacks some of the paths.
    """
    return family.stored(config)
