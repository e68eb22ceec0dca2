"""Phi-3 and Phi-4-mini (2404.14219, 2503.01743): fused projections, LongRoPE."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import Layers
from adapt_jax.decoders.families.tables import ENDS, FIELDS, LAYER, OWN, PRE_NORMS

QKV = tuple(f"{OWN}attention.{name}.kernel" for name in ("query", "key", "value"))
GATE_UP = (OWN + "ffn.gate.kernel", OWN + "ffn.up.kernel")

FAMILY = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    tensors=(
        *ENDS,
        *PRE_NORMS,
        (LAYER + "self_attn.qkv_proj.weight", QKV, False),
        (LAYER + "self_attn.o_proj.weight", OWN + "attention.output.kernel", False),
        (LAYER + "mlp.gate_up_proj.weight", GATE_UP, False),
        (LAYER + "mlp.down_proj.weight", OWN + "ffn.down.kernel", False),
    ),
    fields={
        **FIELDS,
        "context_length": ("max_position_embeddings", 4096),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "eos_ids": ("eos_token_id", 32000),
        "pad_id": ("pad_token_id", 32000),
    },
    layers=Layers(
        fraction="partial_rotary_factor",
        rope_types={"su": "longrope", "yarn": "longrope"},
        original=4096,
        window=lambda hf: hf.get("sliding_window"),
    ),
)
