"""Qwen1.5-MoE and Qwen2-MoE (2407.10671, section 2.2.2): a shared expert behind a gate."""

from adapt_jax.decoders.families import qwen2
from adapt_jax.decoders.families.experts import EXPERTS, FUSED_EXPERTS, ROUTER, shared_expert
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.qwen3_moe import adjust_layer, write_layers
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, TENSORS

SHARED_GATE = LAYER + "ffn.shared_gate.kernel"

FAMILY = Family(
    architecture="Qwen2MoeForCausalLM",
    model_type="qwen2_moe",
    tensors=(
        *TENSORS,
        *ROUTER,
        *EXPERTS,
        *shared_expert("mlp.shared_expert"),
        (HF_LAYER + "mlp.shared_expert_gate.weight", SHARED_GATE, False),
    ),
    other_tensors=FUSED_EXPERTS,
    fields={
        **qwen2.FAMILY.fields,
        "num_kv_heads": ("num_key_value_heads", 16),
        "qkv_bias": ("qkv_bias", True),
    },
    moe_fields={
        "num_experts": (("num_experts", "num_local_experts"), 60),
        "experts_per_token": ("num_experts_per_tok", 4),
        "ffn_dim": ("moe_intermediate_size", 1408),
        "normalize_weights": ("norm_topk_prob", False),
        "shared_ffn_dim": ("shared_expert_intermediate_size", 5632),
    },
    fixed_moe_fields={"shared_gate": True},
    extra_hf_fields=write_layers,
    layer_rules=LayerRules(
        window=qwen2.LAYER_RULES.window,
        # every other one of the first layers
        is_sliding=lambda hf, index: bool(
            hf.get("use_sliding_window")
            and index % 2 == 0
            and index < hf.get("max_window_layers", 28)
        ),
        adjust=adjust_layer,
    ),
)
