"""The decoders that are timed: Llama shapes with 32,000 tokens of vocabulary and random weights."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

VOCAB = 32_000
# parameters with the tied embedding: 2.1, 15.2, 58.3, 301 and 1,093 million
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2},
    "15M": {"hidden_size": 288, "intermediate_size": 768, "layers": 6, "heads": 6},
    "60M": {"hidden_size": 512, "intermediate_size": 2048, "layers": 10, "heads": 8},
    "300M": {"hidden_size": 1024, "intermediate_size": 4096, "layers": 16, "heads": 16},
    "1B": {"hidden_size": 2048, "intermediate_size": 5632, "layers": 20, "heads": 32},
}


def write_llama(folder: Path, size: str, *, seed: int = 0, vocab_size: int = VOCAB) -> Path:
    """Writes a random float32 Llama of this size as a Hugging Face folder, and returns it.

    The tokenizer knows a word per token id: ``t0``, ``t1`` and so on, white space between them.
    """
    shape = SIZES[size]
    embed, ffn, heads = shape["hidden_size"], shape["intermediate_size"], shape["heads"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": embed,
        "intermediate_size": ffn,
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": embed // heads,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    draws = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        draw = draws.standard_normal((rows, columns), np.float32)
        return draw * np.float32(columns**-0.5)

    tensors = {
        "model.embed_tokens.weight": matrix(vocab_size, embed),
        "model.norm.weight": np.ones(embed, np.float32),
    }
    for layer in range(shape["layers"]):
        prompt_prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prompt_prefix}{norm}.weight"] = np.ones(embed, np.float32)
        for name in "qkvo":
            tensors[f"{prompt_prefix}self_attn.{name}_proj.weight"] = matrix(embed, embed)
        for name in ("gate", "up"):
            tensors[f"{prompt_prefix}mlp.{name}_proj.weight"] = matrix(ffn, embed)
        tensors[f"{prompt_prefix}mlp.down_proj.weight"] = matrix(embed, ffn)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer(folder, vocab_size)
    return folder


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes a tokenizer that knows a word per token id: ``t0``, ``t1`` and so on."""
    vocabulary = {f"t{number}": number for number in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "t1",
        "eos_token": "t2",
        "pad_token": "t0",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
