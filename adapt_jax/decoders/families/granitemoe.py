"""Granite 3 with a mixture of experts (IBM), in some checkpoints beside a shared expert."""

from dataclasses import replace

from adapt_jax.decoders.families import granite
from adapt_jax.decoders.families.experts import give_all_layers_experts
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
)

MOE, FFN = HF_LAYER + "block_sparse_moe.", LAYER + "ffn."
SHARED_GATE_UP = (FFN + "shared.gate.kernel", FFN + "shared.up.kernel")
EXPERTS = (
    (MOE + "router.layer.weight", FFN + "router", False),
    (MOE + "input_linear.weight", (FFN + "gate", FFN + "up"), True),
    (MOE + "output_linear.weight", FFN + "down", True),
)
GRANITE = {key: row for key, row in granite.FAMILY.fields.items() if key != "mlp_bias"}

FAMILY = Family(
    architecture="GraniteMoeForCausalLM",
    model_type="granitemoe",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        *EXPERTS,
        (HF_LAYER + "shared_mlp.input_linear.weight", SHARED_GATE_UP, False),
        (HF_LAYER + "shared_mlp.output_linear.weight", FFN + "shared.down.kernel", False),
    ),
    # as transformers 5 holds them in memory
    other_tensors=(
        (MOE + "router.weight", FFN + "router", False),
        (MOE + "experts.gate_up_proj", (FFN + "gate", FFN + "up"), True),
        (MOE + "experts.down_proj", FFN + "down", True),
    ),
    fields={**GRANITE, **ATTENTION_BIAS},
    fixed_fields={"mlp_bias": False},
    moe_fields={
        "num_experts": ("num_local_experts", 8),
        "experts_per_token": ("num_experts_per_tok", 2),
        "ffn_dim": ("intermediate_size", REQUIRED),
    },
    layer_rules=LayerRules(adjust=give_all_layers_experts),
)
SHARED = replace(
    FAMILY,
    architecture="GraniteMoeSharedForCausalLM",
    model_type="granitemoeshared",
    moe_fields={**FAMILY.moe_fields, "shared_ffn_dim": ("shared_intermediate_size", 0)},
)
