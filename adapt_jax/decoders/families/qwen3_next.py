"""Qwen3-Next, and Qwen3.5 with experts: a mixture of them, and a shared one behind a gate."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import qwen3_5, qwen3_moe
from adapt_jax.decoders.families.experts import EXPERTS, FUSED_EXPERTS, ROUTER, shared_expert
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import (
    EMBEDDING_AND_OUTPUT,
    GATED_FFN,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
)

HF_MIXER, MIXER = qwen3_5.HF_MIXER, qwen3_5.MIXER
QKVZ = tuple(f"{MIXER}{name}.kernel" for name in ("query", "key", "value", "output_gate"))
STRENGTH_AND_DECAY = (MIXER + "strength.kernel", MIXER + "decay.kernel")
SHARED_GATE = LAYER + "ffn.shared_gate.kernel"
MOE = (
    *ROUTER,
    *shared_expert("mlp.shared_expert"),
    (HF_LAYER + "mlp.shared_expert_gate.weight", SHARED_GATE, False),
)


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Delta nets in most layers, and experts in all or most."""
    return qwen3_moe.adjust_layer(hf, index, qwen3_5.adjust_layer(hf, index, layer))


def _write_layers(config: DecoderConfig) -> HFConfig:
    layers = qwen3_moe.write_layers(config)
    return {
        **qwen3_5.write_layers(config),
        **{name: layers[name] for name in ("decoder_sparse_step", "mlp_only_layers")},
    }


FAMILY = replace(
    qwen3_5.FAMILY,
    architecture="Qwen3NextForCausalLM",
    model_type="qwen3_next",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *qwen3_5.ATTENTION,
        *qwen3_5.DELTA_NET,
        # a group for each key head: its share of all four, or of both
        (HF_MIXER + "in_proj_qkvz.weight", QKVZ, False, "mixer.num_key_heads"),
        (HF_MIXER + "in_proj_ba.weight", STRENGTH_AND_DECAY, False, "mixer.num_key_heads"),
        *GATED_FFN,
        *PRE_NORMS,
        *MOE,
        *EXPERTS,
    ),
    other_tensors=FUSED_EXPERTS,
    fields={**qwen3_5.FAMILY.fields, "num_kv_heads": ("num_key_value_heads", 2)},
    moe_fields={
        "num_experts": (qwen3_moe.NUM_EXPERTS, 512),
        "experts_per_token": ("num_experts_per_tok", 10),
        "ffn_dim": ("moe_intermediate_size", 512),
        "normalize_weights": ("norm_topk_prob", True),
        "shared_ffn_dim": ("shared_expert_intermediate_size", 512),
    },
    fixed_moe_fields={"shared_gate": True},
    extra_hf_fields=_write_layers,
    layer_rules=replace(qwen3_5.FAMILY.layer_rules, adjust=_adjust_layer),
)

# every layer has experts, whose weights are always normalized, in fused tensors
QWEN3_5_MOE = replace(
    qwen3_5.FAMILY,
    architecture="Qwen3_5MoeForCausalLM",
    model_type="qwen3_5_moe_text",
    tensors=(*qwen3_5.FAMILY.tensors, *MOE, *FUSED_EXPERTS),
    other_tensors=EXPERTS,
    fields={
        **FAMILY.fields,
        "ffn_dim": ("intermediate_size", lambda hf: hf.get("moe_intermediate_size", 512)),
    },
    moe_fields={
        **{key: row for key, row in FAMILY.moe_fields.items() if key != "normalize_weights"},
        "num_experts": (qwen3_moe.NUM_EXPERTS, 256),
        "experts_per_token": ("num_experts_per_tok", 8),
    },
    fixed_moe_fields={"shared_gate": True},
    layer_rules=replace(
        qwen3_5.FAMILY.layer_rules,
        adjust=lambda hf, index, layer: replace(
            qwen3_5.adjust_layer(hf, index, layer), is_moe=True
        ),
    ),
)
