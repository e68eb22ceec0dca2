"""DecoderConfig: every way in which the decoder families differ, as plain fields."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. A family file translates a Hugging Face ``config.json`` into it.

    Fields named ``*_dim`` are sizes of one vector; ``context_length`` is in tokens and counts the
    prefix. ``rope_scaling`` is the checkpoint's own dictionary (``rope_type`` and its numbers).
    """

    family: str
    vocab_size: int
    embed_dim: int
    ffn_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: tuple[tuple[str, Any], ...] = ()
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    num_experts: int = 0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_heads} is not a multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embeddings need pairs")


ROPE_TYPES = ("default", "linear", "llama3")


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians per position of each rotated pair, [H/2].

    RoFormer (2104.09864, section 3.4.2) with the checkpoint's theta; ``linear`` is position
    interpolation (2306.15595); ``llama3`` stretches long wavelengths only (Llama 3.1 model card).

    Raises:
        ValueError: for a ``rope_type`` that is not implemented (never a silent default).
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    frequencies = (1.0 / (np.float32(config.rope_theta) ** exponents)).astype(np.float32)
    scaling = dict(config.rope_scaling)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / np.float32(scaling["factor"])
    if kind == "llama3":
        factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelength = 2 * np.pi / frequencies
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        return ((1 - smooth) * frequencies / factor + smooth * frequencies).astype(np.float32)
    raise ValueError(f"rope_type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}")
