"""The text decoders inside multimodal checkpoints, which are read without their towers.

Positions of text are the same in all dimensions of a multimodal rope (2409.12191, section 2.1), so
it is a plain rope here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapt_jax.decoders.families.family import Family

__all__ = ["REFUSED", "TEXT_DECODERS", "TEXT_MODULES", "TEXT_SIZES", "make_multimodal_family"]

# Architecture -> (its model type, the model type of its text decoder where none is named).
TEXT_DECODERS: Mapping[str, tuple[str, str]] = {
    "AyaVisionForConditionalGeneration": ("aya_vision", "cohere2"),
    "Cohere2VisionForConditionalGeneration": ("cohere2_vision", "cohere2"),
    "Gemma3ForConditionalGeneration": ("gemma3", "gemma3_text"),
    "Gemma3nForConditionalGeneration": ("gemma3n", "gemma3n_text"),
    "Gemma4ForConditionalGeneration": ("gemma4", "gemma4_text"),
    "Gemma4UnifiedForConditionalGeneration": ("gemma4_unified", "gemma4_unified_text"),
    "Glm4vForConditionalGeneration": ("glm4v", "glm4v_text"),
    "Idefics3ForConditionalGeneration": ("idefics3", "llama"),
    "InternVLForConditionalGeneration": ("internvl", "qwen2"),
    "Llama4ForConditionalGeneration": ("llama4", "llama4_text"),
    "LlavaForConditionalGeneration": ("llava", "llama"),
    "LlavaNextForConditionalGeneration": ("llava_next", "llama"),
    "LlavaOnevisionForConditionalGeneration": ("llava_onevision", "qwen2"),
    "Mistral3ForConditionalGeneration": ("mistral3", "mistral"),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", "qwen2_vl_text"),
    "Qwen2_5_VLForConditionalGeneration": ("qwen2_5_vl", "qwen2_5_vl_text"),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", "qwen3_vl_text"),
    "Qwen3_5ForConditionalGeneration": ("qwen3_5", "qwen3_5_text"),
    "Qwen3_5MoeForConditionalGeneration": ("qwen3_5_moe", "qwen3_5_moe_text"),
    "Qwen3VLMoeForConditionalGeneration": ("qwen3_vl_moe", "qwen3_vl_moe_text"),
    "SmolVLMForConditionalGeneration": ("smolvlm", "llama"),
}
# Their text decoders are read without the towers by AutoModelForCausalLM of transformers, too.
READ_ALONE = (
    "Llama4ForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
)
# Architecture -> where the text decoder lies in the model that transformers reads, towers and all.
TEXT_MODULES: Mapping[str, str] = {
    name: f"model.{'text_model' if model_type in ('idefics3', 'smolvlm') else 'language_model'}."
    for name, (model_type, _) in TEXT_DECODERS.items()
    if name not in READ_ALONE
}
# Architecture -> why its text decoder is none that can be read alone.
REFUSED: Mapping[str, str] = {
    "MllamaForConditionalGeneration": "layers between those of its text decoder attend to images",
    "PaliGemmaForConditionalGeneration": "its prompt is attended to in both directions",
}
# Sizes of a text part of this model type that its file leaves out, as transformers has them.
TEXT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "cohere2": {
        "vocab_size": 256000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
    },
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
# Prefixes of the text decoder's tensors, in older and newer files.
PREFIX_ALIASES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("model.text_model.", "model."),
)
# Towers for images, and what leads from them to the text decoder.
TOWERS = (
    *("*vision_tower.*", "*vision_model.*", "*visual.*"),
    *("*multi_modal_projector.*", "*connector.*", "*image_newline"),
)


def make_multimodal_family(family: Family) -> Family:
    """The family of a text decoder, changed to read it out of a multimodal checkpoint."""
    return replace(
        family,
        text_sizes=TEXT_SIZES.get(family.model_type, {}),
        prefix_aliases=tuple(dict.fromkeys((*PREFIX_ALIASES, *family.prefix_aliases))),
        ignored_tensors=tuple(dict.fromkeys((*family.ignored_tensors, *TOWERS))),
    )
