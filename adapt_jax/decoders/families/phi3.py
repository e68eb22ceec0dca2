"""Phi-3 and Phi-4-mini (2404.14219, 2503.01743): fused projections, LongRoPE."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
)

QKV = tuple(f"{LAYER}attention.{name}.kernel" for name in ("query", "key", "value"))
GATE_UP = (LAYER + "ffn.gate.kernel", LAYER + "ffn.up.kernel")

FAMILY = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *PRE_NORMS,
        (HF_LAYER + "self_attn.qkv_proj.weight", QKV, False),
        (HF_LAYER + "self_attn.o_proj.weight", LAYER + "attention.output.kernel", False),
        (HF_LAYER + "mlp.gate_up_proj.weight", GATE_UP, False),
        (HF_LAYER + "mlp.down_proj.weight", LAYER + "ffn.down.kernel", False),
    ),
    fields={
        **FIELDS,
        "context_length": ("max_position_embeddings", 4096),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "eos_ids": ("eos_token_id", 32000),
        "pad_id": ("pad_token_id", 32000),
    },
    layer_rules=LayerRules(
        partial_rotary_field="partial_rotary_factor",
        rope_type_aliases={"su": "longrope", "yarn": "longrope"},
        original_max_positions=4096,
        window=lambda hf: hf.get("sliding_window"),
    ),
)
