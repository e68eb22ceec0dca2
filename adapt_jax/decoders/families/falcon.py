"""Falcon (2311.16867): parallel residuals; one key/value head, or groups with two norms.

Falcon-RW (2306.01116) has sequential residuals, and ALiBi in place of rotary positions.
"""

from dataclasses import replace

from adapt_jax.decoders.alibi import Alibi
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family, TensorRow
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, LAYER, default_head_dim, norm, projection

HF_LAYER = "transformer.h.{n}."
QKV = tuple(f"{LAYER}attention.{name}" for name in ("query", "key", "value"))


def _count_kv_heads(hf: HFConfig) -> int:
    """The number of key/value heads; before the newer architecture, one or as many as heads."""
    heads = int(hf["num_attention_heads"])
    if hf.get("new_decoder_architecture", False):
        return int(hf.get("num_kv_heads") or heads)
    return 1 if hf.get("multi_query", True) else heads


def _choose_residual(hf: HFConfig) -> str:
    """Parallel, with one norm or two, or sequential.

    Raises:
        ValueError: the number of norms does not fit the architecture.
    """
    is_new, is_parallel = hf.get("new_decoder_architecture"), hf.get("parallel_attn", True)
    num_norms = hf.get("num_ln_in_parallel_attn") or (2 if is_new else 1)
    if num_norms == 2 and is_parallel and not is_new:
        raise ValueError("num_ln_in_parallel_attn 2: expected new_decoder_architecture with it")
    if is_new and not is_parallel:
        raise ValueError("new_decoder_architecture: expected parallel_attn with it")
    if not is_parallel:
        return "sequential"
    return "parallel" if num_norms == 2 else "parallel_shared"


def _remove_rope(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """No rotary positions beside ALiBi."""
    return replace(layer, rope=None) if hf.get("alibi") else layer


def _computed_fields(hf: HFConfig) -> HFConfig:
    """ALiBi; sizes of heads and feed-forward layer (by default four times the hidden size)."""
    head_dim = default_head_dim(hf)
    alibi = Alibi(scale=head_dim**-0.5, in_bfloat16=True) if hf.get("alibi") else None
    return {
        "alibi": alibi,
        "num_kv_heads": _count_kv_heads(hf),
        "head_dim": head_dim,
        "ffn_dim": hf.get("ffn_hidden_size") or 4 * hf["hidden_size"],
        "residual": _choose_residual(hf),
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The architecture. Multi-query and as many key/value heads as heads need not the newer one."""
    has_two_norms = config.residual == "parallel"
    is_new = has_two_norms or config.num_kv_heads not in (1, config.num_heads)
    return {
        "alibi": config.alibi is not None,
        "new_decoder_architecture": is_new,
        "multi_query": config.num_kv_heads == 1,
        "num_kv_heads": config.num_kv_heads,
        "parallel_attn": config.residual != "sequential",
        "num_ln_in_parallel_attn": (2 if has_two_norms else 1) if is_new else None,
        "ffn_hidden_size": config.ffn_dim,
    }


def _name_norms(config: DecoderConfig) -> tuple[TensorRow, ...]:
    """The norms, whose names differ where a layer has two parallel ones."""
    is_parallel = config.residual == "parallel"
    names = (
        ("ln_attn", "ln_mlp") if is_parallel else ("input_layernorm", "post_attention_layernorm")
    )
    return (
        *norm(HF_LAYER + names[0], LAYER + "attention_norm"),
        *norm(HF_LAYER + names[1], LAYER + "ffn_norm"),
    )


FAMILY = Family(
    architecture="FalconForCausalLM",
    model_type="falcon",
    tensors=(
        ("transformer.word_embeddings.weight", "embedding", False),
        *norm("transformer.ln_f", "norm"),
        ("lm_head.weight", "output.kernel", False),
        # One group for each key/value head: its queries, key and value.
        (
            HF_LAYER + "self_attention.query_key_value.weight",
            tuple(f"{part}.kernel" for part in QKV),
            False,
            "num_kv_heads",
        ),
        (
            HF_LAYER + "self_attention.query_key_value.bias",
            tuple(f"{part}.bias" for part in QKV),
            False,
            "num_kv_heads",
        ),
        *projection(HF_LAYER + "self_attention.dense", LAYER + "attention.output"),
        *projection(HF_LAYER + "mlp.dense_h_to_4h", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.dense_4h_to_h", LAYER + "ffn.down"),
    ),
    tensors_for=_name_norms,
    fields={
        **{k: v for k, v in FIELDS.items() if k not in ("num_kv_heads", "head_dim", "ffn_dim")},
        "activation": ("activation", "gelu"),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", 11),
        "eos_ids": ("eos_token_id", 11),
        **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), ("bias", False)),
    },
    fixed_fields={"norm": "layer", "norm_bias": True, "gated": False},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={"apply_residual_connection_post_layernorm": (False,)},
    layer_rules=LayerRules(adjust=_remove_rope),
    prefix_aliases=tuple(
        (one, f"transformer.{one}") for one in ("word_embeddings.", "ln_f.", "h.")
    ),
)
