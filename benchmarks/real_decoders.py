"""Decoders with users' vocabularies: a folder of one's own, or a public shape, random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from benchmarks.shapes import SIZES, write_llama, write_tokenizer

__all__ = ["PUBLIC_SHAPES", "load_endless", "prepare_decoder"]

# the config.json of their Hugging Face repositories
PUBLIC_SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    },
    "llama-3.2-1b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}


def prepare_decoder(name: str, folder: Path) -> tuple[Path, int]:
    """Writes a decoder below ``folder``, and returns where it is and its vocabulary's size.

    Args:
        name: one of SIZES or PUBLIC_SHAPES, or a Hugging Face folder; its files are linked.

    Raises:
        SystemExit: no such folder.
    """
    source, written = Path(name).resolve(), folder / "decoder"
    if name in SIZES:
        write_llama(written, name)
    elif name in PUBLIC_SHAPES:
        _write_random(written, PUBLIC_SHAPES[name])
    elif (source / "config.json").is_file():
        written.mkdir(parents=True)
        for file in source.iterdir():
            (written / file.name).symlink_to(file)
    else:
        known = ", ".join([*SIZES, *PUBLIC_SHAPES])
        raise SystemExit(f"{name}: neither a folder with a config.json nor one of: {known}")
    return written, json.loads((written / "config.json").read_text())["vocab_size"]


def load_endless(folder: Path | str, dtype: str) -> PretrainedDecoder:
    """Reads a decoder that knows no EOS, so that every text has the greatest length."""
    model = load_pretrained(folder, dtype=dtype)
    model.decoder.config = replace(model.config, eos_ids=())
    return model


def _write_random(folder: Path, hf: dict[str, Any]) -> None:
    """A float32 checkpoint of this ``config.json``, random weights, and a tokenizer of words."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(hf))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(hf | {"dtype": "float32"}))
    write_tokenizer(folder, hf["vocab_size"])
