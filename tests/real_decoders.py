"""The shapes of public decoders: what their config.json says, without weights or tokenizer.

And real decoders, where ``shared/tools/real_decoders.py`` has made their folders.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PARAMETERS", "SHAPES", "find_real_decoder", "write_config"]

# parameters as their authors' files hold them; the embedding is tied and counts once
PARAMETERS = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
}


def _shape(
    family: str, vocab: int, embed: int, ffn: int, layers: int, heads: int, kv: int, **more: Any
) -> dict[str, Any]:
    """What all families say, and what one says beside it."""
    names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    return {
        "architectures": [names.get(family, "Gemma3ForCausalLM")],
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": embed,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | more


SILU = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "attention_bias": False}
SMOLLM = SILU | {"rms_norm_eps": 1e-5, "rope_theta": 100_000.0, "max_position_embeddings": 8192}
QWEN2 = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False}
QWEN2 |= {"max_position_embeddings": 32_768}
QWEN3 = SILU | {"rope_theta": 1e6, "head_dim": 128, "max_position_embeddings": 40_960}
LLAMA = SILU | {
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "max_position_embeddings": 131_072,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10_000.0,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 32_768,
}
SHAPES = {
    "HuggingFaceTB/SmolLM2-135M": _shape("llama", 49_152, 576, 1536, 30, 9, 3, **SMOLLM),
    "HuggingFaceTB/SmolLM2-360M": _shape("llama", 49_152, 960, 2560, 32, 15, 5, **SMOLLM),
    "google/gemma-3-270m": _shape("gemma3_text", 262_144, 640, 2048, 18, 4, 1, **GEMMA),
    "google/gemma-3-1b-pt": _shape("gemma3_text", 262_144, 1152, 6912, 26, 4, 1, **GEMMA),
    "Qwen/Qwen2.5-0.5B": _shape("qwen2", 151_936, 896, 4864, 24, 14, 2, **QWEN2),
    "Qwen/Qwen2.5-1.5B": _shape("qwen2", 151_936, 1536, 8960, 28, 12, 2, **QWEN2),
    "Qwen/Qwen3-0.6B": _shape("qwen3", 151_936, 1024, 3072, 28, 16, 8, **QWEN3),
    "Qwen/Qwen3-1.7B": _shape("qwen3", 151_936, 2048, 6144, 28, 16, 8, **QWEN3),
    "meta-llama/Llama-3.2-1B": _shape(
        "llama", 128_256, 2048, 8192, 16, 32, 8, head_dim=64, **LLAMA
    ),
    "meta-llama/Llama-3.2-3B": _shape(
        "llama", 128_256, 3072, 8192, 28, 24, 8, head_dim=128, **LLAMA
    ),
}


def write_config(folder: Path, name: str) -> Path:
    """Writes the config.json of a decoder into a new folder below ``folder``, and returns that."""
    place = folder / name.replace("/", "--")
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(SHAPES[name]), encoding="utf-8")
    return place


def find_real_decoder(name: str) -> Path:
    """The folder of a real decoder, "smollm2" or "gemma3"; skips the test where it is absent."""
    made = os.environ.get("ADAPT_JAX_REAL", str(Path.home() / ".cache" / "adapt_jax_real"))
    folder = Path(made) / name
    if not (folder / "config.json").is_file():
        pytest.skip(f"{name} is not there; shared/tools/real_decoders.py makes it")
    return folder
