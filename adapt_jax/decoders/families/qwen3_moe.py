"""Qwen3 with a mixture of experts in most layers (2505.09388)."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig, MoEConfig
from adapt_jax.decoders.families import qwen3
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import LAYER, OWN, TENSORS, even_share


def count(hf: HF) -> int:
    """How many experts there are; transformers 5 has another name for it."""
    return int(hf.get("num_experts", hf.get("num_local_experts", 128)))


def change(hf: HF, layer: int, kind: LayerConfig) -> LayerConfig:
    """Every ``decoder_sparse_step``-th layer has experts, unless ``mlp_only_layers`` names it."""
    dense = layer in (hf.get("mlp_only_layers") or ()) or count(hf) == 0
    return replace(kind, is_moe=not dense and (layer + 1) % hf.get("decoder_sparse_step", 1) == 0)


def derived(hf: HF) -> HF:
    """The shape of the mixture."""
    moe = MoEConfig(
        num_experts=count(hf),
        experts_per_token=hf.get("num_experts_per_tok", 8),
        ffn_dim=hf.get("moe_intermediate_size", 768),
        normalize_weights=hf.get("norm_topk_prob", False),
    )
    return {"moe": moe if moe.num_experts else None}


def spelled(config: DecoderConfig) -> HF:
    """The mixture in the words of ``config.json``."""
    layers, moe = range(config.num_layers), config.moe or MoEConfig(0, 8, 768, False)
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.ffn_dim,
        "norm_topk_prob": moe.normalize_weights,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [n for n in layers if not config.layer_config(n).is_moe],
        "use_sliding_window": config.layer_config(0).window is not None,
    }


FAMILY = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    tensors=(
        *TENSORS,
        (LAYER + "mlp.gate.weight", OWN + "ffn.router", False),
        (LAYER + "mlp.experts.{e}.gate_proj.weight", OWN + "ffn.gate", True),
        (LAYER + "mlp.experts.{e}.up_proj.weight", OWN + "ffn.up", True),
        (LAYER + "mlp.experts.{e}.down_proj.weight", OWN + "ffn.down", True),
    ),
    fields={
        **qwen3.FAMILY.fields,
        "head_dim": ("head_dim", even_share),
        "num_kv_heads": ("num_key_value_heads", 4),
    },
    fixed={"qk_norm": "head"},
    derived=derived,
    spelled=spelled,
    layers=Layers(window=qwen3.FAMILY.layers.window, change=change),
)
