"""Decoders and TPU slices that ``benchmarks.tpu`` compiles for, from public facts.

Decoders: the ``config.json`` of their Hugging Face repositories. Slices: the pages of Cloud TPU
(cloud.google.com/tpu/docs/v5e, v5p, v6e); bandwidths are those of one chip.
"""

from dataclasses import dataclass
from typing import Any

from adapt_jax.inspection.accelerators import ACCELERATORS, Accelerator

__all__ = ["DECODERS", "SLICES", "Slice"]


def _llama(embed: int, ffn: int, layers: int, heads: int, factor: float, tied: bool) -> Any:
    """Llama 3.1 and 3.2; they differ in these sizes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": embed,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "dtype": "bfloat16",
    }


DECODERS: dict[str, dict[str, Any]] = {
    "llama-3.2-3b": _llama(3072, 8192, 28, 24, 32.0, True),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, 8.0, False),
    "llama-3.1-70b": _llama(8192, 28672, 80, 64, 8.0, False),
    "qwen2.5-14b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "dtype": "bfloat16",
    },
    "gemma-3-27b": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "query_pre_attn_scalar": 168,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "dtype": "bfloat16",
    },
}


@dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
        topology: as ``adapt-jax inspect --mesh`` takes it.
        flops: dense bfloat16 operations per second of a chip.
        memory_bandwidth, link_bandwidth: bytes per second of a chip, to its memory (HBM) and to all
            its neighbours together (ICI).
    """

    topology: str
    chips: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float

    @property
    def accelerator(self) -> Accelerator:
        """One chip, with the memory that a program may use."""
        kind = self.topology.partition(":")[0]
        return next(one for one in ACCELERATORS if kind in one.name)

    @property
    def usable(self) -> int:
        """Bytes of a chip that a program may use."""
        return self.accelerator.usable


# A v5p is named by its cores, of which a chip has two.
SLICES = {
    "v5e-1": Slice("v5e:1x1", 1, 197e12, 819e9, 200e9),
    "v5e-16": Slice("v5e:4x4", 16, 197e12, 819e9, 200e9),
    "v5e-32": Slice("v5e:4x8", 32, 197e12, 819e9, 200e9),
    "v5e-256": Slice("v5e:16x16", 256, 197e12, 819e9, 200e9),
    "v5p-128": Slice("v5p:4x4x4", 64, 459e12, 2765e9, 600e9),
    "v6e-256": Slice("v6e:16x16", 256, 918e12, 1640e9, 448e9),
}
