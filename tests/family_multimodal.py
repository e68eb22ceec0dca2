"""Random multimodal checkpoints: the text decoders of other cases, with small towers for images."""

import copy
import json
from pathlib import Path
from typing import Any

from family_cases import CASES
from family_fields import SIZES
from tiny_llama import tiny_tokenizer

__all__ = ["INSIDE", "make_multimodal"]

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
VISION |= {"num_attention_heads": 2, "num_key_value_heads": 2, "patch_size": 14, "image_size": 28}
QWEN_VISION = {"depth": 1, "num_heads": 2, "hidden_size": 32, "embed_dim": 16}
QWEN_VISION |= {"intermediate_size": 16, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [1, 1, 2]}
# outer model type: its text part (a case, or a model type with fields), and its vision part
INSIDE: dict[str, tuple[Any, dict[str, Any]]] = {
    "gemma3": ("gemma3", {"model_type": "siglip_vision_model", **VISION}),
    "gemma4": (
        "gemma4, per-layer embeddings",
        {"model_type": "gemma4_vision", **VISION, "position_embedding_size": 16},
    ),
    "mistral3": ("ministral3", {"model_type": "pixtral", **VISION}),
    "llama4": (
        "llama4",
        {"model_type": "llama4_vision_model", **VISION}
        | dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 16),
    ),
    "llava": ("llama, llama3", {"model_type": "clip_vision_model", **VISION}),
    "llava_next": ("granite", {"model_type": "clip_vision_model", **VISION}),
    "llava_onevision": ("qwen2", {"model_type": "siglip_vision_model", **VISION}),
    "internvl": ("qwen3", {"model_type": "internvl_vision", **VISION}),
    "aya_vision": ("cohere2", {"model_type": "siglip_vision_model", **VISION}),
    "smolvlm": ("llama, linear", {"model_type": "smolvlm_vision", **VISION}),
    "idefics3": ("mistral", {"model_type": "idefics3_vision", **VISION}),
    "qwen2_vl": (("qwen2_vl_text", {"rope_parameters": MROPE}), QWEN_VISION),
    "qwen2_5_vl": (
        (
            "qwen2_5_vl_text",
            {"rope_parameters": MROPE, "use_sliding_window": True, "sliding_window": 9}
            | {"max_window_layers": 1},
        ),
        QWEN_VISION,
    ),
    "qwen3_vl": (
        ("qwen3_vl_text", {"rope_parameters": {**MROPE, "mrope_interleaved": True}, "head_dim": 8}),
        {**QWEN_VISION, "deepstack_visual_indexes": [0]},
    ),
    "qwen3_vl_moe": (
        (
            "qwen3_vl_moe_text",
            {"rope_parameters": {**MROPE, "mrope_interleaved": True}, "head_dim": 8}
            | {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
            | {"mlp_only_layers": [1]},
        ),
        {**QWEN_VISION, "deepstack_visual_indexes": [0]},
    ),
    "qwen3_5": ("qwen3_5", QWEN_VISION),
    "qwen3_5_moe": ("qwen3_5_moe", QWEN_VISION),
    "glm4v": (
        (
            "glm4v_text",
            {
                "rope_parameters": {
                    **MROPE,
                    "partial_rotary_factor": 0.75,
                    "mrope_section": [1, 1, 1],
                }
            },
        ),
        QWEN_VISION,
    ),
}


def make_multimodal(folder: Path, kind: str) -> Any:
    """Writes a random checkpoint with transformers; returns the PyTorch model, towers and all."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    text, vision = INSIDE[kind]
    model_type, changes = CASES[text] if isinstance(text, str) else text
    text_config = CONFIG_MAPPING[model_type](**copy.deepcopy({**SIZES, **changes}))
    config = CONFIG_MAPPING[kind](
        text_config=text_config.to_dict(),
        vision_config=vision,
        tie_word_embeddings=kind == "gemma4",
        eos_token_id=7,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape) * 0.2)
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return model
