"""Random checkpoints of the cases of families, and the logits of their decoders.

Weights have a standard deviation of 0.2: with small ones an error in the rotary positions hides.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from family_cases import CASES
from family_fields import sizes_of
from flax import nnx
from tiny_llama import tiny_tokenizer

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.decoder import Decoder


def make(folder: Path, name: str, **changes: Any) -> Any:
    """Writes a random checkpoint of a case with transformers; returns the PyTorch model."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, fields = CASES[name]
    fields = {**sizes_of(model_type), **fields, **changes}
    config = CONFIG_MAPPING[model_type](**copy.deepcopy(fields))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=choose_attention(name))
    model = model.eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = ("norm" in key or "ln_" in key) and model_type != "nemotron"
            is_scale = scale and key.endswith("weight") and "proj" not in key
            centre = 1.0 if is_scale else 0.0
            value.copy_(torch.randn(value.shape) * 0.2 + centre)
        for key, value in model.named_buffers():
            if key.endswith(("layer_scalar", "e_score_correction_bias", ".expert_bias")):
                value.copy_(torch.randn(value.shape) * 0.2 + 1.0)
        model.tie_weights()
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return model


def choose_attention(name: str) -> str:
    """The form of attention in transformers. Its eager form of Falcon adds ALiBi twice."""
    return "sdpa" if name == "falcon, alibi" else "eager"


def tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 320, (rows, length)).astype(np.int32)


def run(decoder: Decoder, ids: np.ndarray, last: int = 0, compiled: bool = True) -> jax.Array:
    """Logits [B, T, V], or those of the last tokens alone.

    Compiled by default, which takes half the time. Op by op, decoders of many configs share the
    compilations of their operations.
    """
    graphdef, state = nnx.split(decoder)
    forward = _compiled_logits if compiled else _compute_logits
    return forward(graphdef, state, jnp.asarray(ids), last)


def _compute_logits(graphdef: Any, state: nnx.State, ids: jax.Array, last: int) -> jax.Array:
    decoder = nnx.merge(graphdef, state)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, _ = decoder(decoder.embed(ids), positions, causal_mask(jnp.ones_like(ids)))
    return decoder.logits(hidden[:, -last:])  # -0: all


_compiled_logits = partial(jax.jit, static_argnums=(0, 3))(_compute_logits)
