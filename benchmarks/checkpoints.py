"""Random decoders of the Llama shape as Hugging Face folders, so that both sides read the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

VOCABULARY = 32_000
# hidden_size, layers, heads, intermediate_size; the embedding is tied, as in the Llamas of 15M
SIZES = {"15M": (288, 6, 6, 768), "60M": (512, 10, 8, 2048)}


def write_llama(folder: Path, size: str, *, seed: int = 0, context: int = 2048) -> Path:
    """Writes config, weights and a tokenizer of whole numbers ("17" is token 17); no EOS."""
    embed, layers, heads, ffn = SIZES[size]
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": embed,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": embed // heads,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
    }
    draws = np.random.default_rng(seed)

    def kernel(*shape: int) -> np.ndarray:
        return draws.normal(0.0, shape[-1] ** -0.5, shape).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": kernel(VOCABULARY, embed),
        "model.norm.weight": np.ones(embed, np.float32),
    }
    for layer in range(layers):
        front = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{front}{name}.weight"] = np.ones(embed, np.float32)
        for name in "qkvo":
            weights[f"{front}self_attn.{name}_proj.weight"] = kernel(embed, embed)
        weights[f"{front}mlp.gate_proj.weight"] = kernel(ffn, embed)
        weights[f"{front}mlp.up_proj.weight"] = kernel(ffn, embed)
        weights[f"{front}mlp.down_proj.weight"] = kernel(embed, ffn)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    words = {str(i): i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
