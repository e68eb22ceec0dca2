"""MiniMax-M2 (2025): attention in all layers, norms of whole projections, corrected experts."""

from dataclasses import replace

from adapt_jax.decoders.config import LayerConfig
from adapt_jax.decoders.families import mixtral
from adapt_jax.decoders.families.experts import give_all_layers_experts
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules, find_rotated_share
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER
from adapt_jax.decoders.rope import Rope

HF_FFN, BIAS = HF_LAYER + "block_sparse_moe.", "e_score_correction_bias"


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Experts; ``rotary_dim`` features of each head are rotated, where only that field says so."""
    layer = give_all_layers_experts(hf, index, layer)
    is_given = any(
        isinstance(one, dict) and one.get("partial_rotary_factor") is not None
        for one in (hf, hf.get("rope_parameters"), hf.get("rope_scaling"))
    )
    if is_given or hf.get("rotary_dim") is None or layer.rope is None:
        return layer
    share = find_rotated_share(hf["rotary_dim"], hf.get("head_dim") or 128)
    return replace(layer, rope=replace(layer.rope, partial_rotary_factor=share))


FAMILY = Family(
    architecture="MiniMaxM2ForCausalLM",
    model_type="minimax_m2",
    tensors=(*mixtral.FAMILY.tensors, (HF_FFN + BIAS, LAYER + "ffn.correction_bias", False)),
    other_tensors=(
        *mixtral.FAMILY.other_tensors,
        (HF_LAYER + "mlp." + BIAS, LAYER + "ffn.correction_bias", False),
    ),
    fields={
        **mixtral.FAMILY.fields,
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 196608),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "bos_id": ("bos_token_id", 200034),
        "eos_ids": ("eos_token_id", 200020),
    },
    fixed_fields={"qk_norm": "projection"},
    moe_fields={
        **mixtral.FAMILY.moe_fields,
        "num_experts": ("num_local_experts", 256),
        "experts_per_token": ("num_experts_per_tok", 8),
    },
    fixed_moe_fields={"scores": "sigmoid", "correction_bias": True},
    layer_rules=LayerRules(
        rope=Rope(theta=5e6), partial_rotary_field="partial_rotary_factor", adjust=_adjust_layer
    ),
)
