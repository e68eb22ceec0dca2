"""The tables that families with a mixture of experts share."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import REQUIRED, TensorRow
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import HF_LAYER, LAYER, projection

__all__ = [
    "CORRECTED_MOE_FIELDS",
    "CORRECTED_MOE_TENSORS",
    "FIXED_CORRECTED_MOE_FIELDS",
    "EXPERTS",
    "FUSED_EXPERTS",
    "ROUTER",
    "give_all_layers_experts",
    "give_experts_from",
    "ignore_extra_layers",
    "read_shared_experts",
    "shared_expert",
    "write_first_dense",
]

MAX_EXTRA_LAYERS = 4
FFN = LAYER + "ffn."
ROUTER: tuple[TensorRow, ...] = ((HF_LAYER + "mlp.gate.weight", FFN + "router", False),)
# a tensor for each expert, as files on the hub have them
EXPERTS: tuple[TensorRow, ...] = (
    (HF_LAYER + "mlp.experts.{e}.gate_proj.weight", FFN + "gate", True),
    (HF_LAYER + "mlp.experts.{e}.up_proj.weight", FFN + "up", True),
    (HF_LAYER + "mlp.experts.{e}.down_proj.weight", FFN + "down", True),
)
# all experts in one tensor, as transformers 5 holds them in memory
FUSED_EXPERTS: tuple[TensorRow, ...] = (
    (HF_LAYER + "mlp.experts.gate_up_proj", (FFN + "gate", FFN + "up"), True),
    (HF_LAYER + "mlp.experts.down_proj", FFN + "down", True),
)


def shared_expert(name: str) -> tuple[TensorRow, ...]:
    """The rows of the expert that every token passes.

    Args:
        name: of its module in a layer, such as ``mlp.shared_expert``.
    """
    return (
        *projection(HF_LAYER + name + ".gate_proj", FFN + "shared.gate"),
        *projection(HF_LAYER + name + ".up_proj", FFN + "shared.up"),
        *projection(HF_LAYER + name + ".down_proj", FFN + "shared.down"),
    )


# Sigmoid scores with a correction, groups of experts, shared experts (DeepSeek-V3, 2412.19437,
# section 2.1.2), as GLM-4-MoE and dots.llm1 have them, too.
CORRECTED_MOE_TENSORS: tuple[TensorRow, ...] = (
    *ROUTER,
    (HF_LAYER + "mlp.gate.e_score_correction_bias", FFN + "correction_bias", False),
    *EXPERTS,
    *shared_expert("mlp.shared_experts"),
)
CORRECTED_MOE_FIELDS: Mapping[str, tuple[Any, Any]] = {
    "num_experts": (("n_routed_experts", "num_local_experts"), REQUIRED),
    "experts_per_token": ("num_experts_per_tok", REQUIRED),
    "ffn_dim": ("moe_intermediate_size", 1408),
    "normalize_weights": ("norm_topk_prob", True),
    "num_groups": ("n_group", 1),
    "groups_per_token": ("topk_group", 1),
    "weight_scale": ("routed_scaling_factor", 1.0),
}
FIXED_CORRECTED_MOE_FIELDS: Mapping[str, Any] = {
    "scores": "sigmoid",
    "correction_bias": True,
    "scores_per_group": 2,
    "min_weight_sum": 1e-20,
}


def read_shared_experts(
    ffn_dim: int, num_shared: int = 1
) -> Callable[[HFConfig], Mapping[str, Any]]:
    """Returns a function that reads the width of the shared experts, which together are one.

    That is ``n_shared_experts`` times as wide as a routed expert.

    Args:
        ffn_dim, num_shared: defaults of ``moe_intermediate_size`` and ``n_shared_experts``.
    """

    def read(hf: HFConfig) -> Mapping[str, Any]:
        count = hf.get("n_shared_experts", num_shared) or 0
        return {"shared_ffn_dim": count * hf.get("moe_intermediate_size", ffn_dim)}

    return read


def write_first_dense(config: DecoderConfig) -> dict[str, Any]:
    """How many shared experts there are, and how many layers precede the first with experts."""
    is_moe = [config.layer_config(index).is_moe for index in range(config.num_layers)]
    first = is_moe.index(True) if True in is_moe else config.num_layers
    count = 0 if config.moe is None else config.moe.shared_ffn_dim // config.moe.ffn_dim
    return {"first_k_dense_replace": first, "n_shared_experts": count}


def ignore_extra_layers(config: DecoderConfig) -> tuple[str, ...]:
    """The layers behind the last one, which predict further tokens (multi-token prediction)."""
    return tuple(f"model.layers.{config.num_layers + n}.*" for n in range(MAX_EXTRA_LAYERS))


def give_all_layers_experts(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Every layer has experts in place of its feed-forward layer."""
    return replace(layer, is_moe=True)


def give_experts_from(default: int) -> Callable[[HFConfig, int, LayerConfig], LayerConfig]:
    """The first ``first_k_dense_replace`` layers are dense, and all others have experts."""

    def adjust(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
        return replace(layer, is_moe=index >= hf.get("first_k_dense_replace", default))

    return adjust
