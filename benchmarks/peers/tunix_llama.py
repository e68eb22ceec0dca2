"""tunix's own Llama with the weights of a Hugging Face folder, in float32."""

import json
from pathlib import Path

import jax.numpy as jnp
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.models.llama3.params import create_model_from_safe_tensors


def load_llama(folder: Path) -> Llama3:
    """Builds the decoder that ``config.json`` describes and reads its weights.

    tunix 0.1.7 keeps ``rope_theta`` without using it: its angles are always those of 1,000,000, so
    its losses are ours only where the folder says so too. The work is the same.
    """
    said = json.loads((folder / "config.json").read_text())
    config = ModelConfig(
        num_layers=said["num_hidden_layers"],
        vocab_size=said["vocab_size"],
        embed_dim=said["hidden_size"],
        hidden_dim=said["intermediate_size"],
        num_heads=said["num_attention_heads"],
        head_dim=said["head_dim"],
        num_kv_heads=said["num_key_value_heads"],
        rope_theta=said["rope_theta"],
        norm_eps=said["rms_norm_eps"],
        weight_tying=said["tie_word_embeddings"],
    )
    return create_model_from_safe_tensors(str(folder), config, dtype=jnp.float32)
