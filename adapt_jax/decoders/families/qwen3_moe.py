"""Qwen3 with a mixture of experts in most layers (2505.09388)."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, Experts, LayerKind
from adapt_jax.decoders.families import qwen3
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import LAYER, OWN, TENSORS, even_share


def count(hf: HF) -> int:
    """How many experts there are; transformers 5 has another name for it."""
    return int(hf.get("num_experts", hf.get("num_local_experts", 128)))


def change(hf: HF, layer: int, kind: LayerKind) -> LayerKind:
    """Every ``decoder_sparse_step``-th layer has experts, unless ``mlp_only_layers`` names it."""
    dense = layer in (hf.get("mlp_only_layers") or ()) or count(hf) == 0
    return replace(kind, experts=not dense and (layer + 1) % hf.get("decoder_sparse_step", 1) == 0)


def derived(hf: HF) -> HF:
    """The shape of the mixture."""
    experts = Experts(
        count=count(hf),
        per_token=hf.get("num_experts_per_tok", 8),
        ffn_dim=hf.get("moe_intermediate_size", 768),
        normalized=hf.get("norm_topk_prob", False),
    )
    return {"experts": experts if experts.count else None}


def spelled(config: DecoderConfig) -> HF:
    """The mixture in the words of ``config.json``."""
    layers, experts = range(config.num_layers), config.experts or Experts(0, 8, 768, False)
    return {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.ffn_dim,
        "norm_topk_prob": experts.normalized,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [n for n in layers if not config.layer(n).experts],
        "use_sliding_window": config.layer(0).window is not None,
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
