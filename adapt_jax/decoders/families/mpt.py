"""MPT (MosaicML, 2023): ALiBi in place of position embeddings, and no biases."""

from adapt_jax.decoders.alibi import Alibi
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import REQUIRED, Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import LAYER, norm, projection

HF_LAYER = "transformer.blocks.{n}."
QKV = tuple(f"{LAYER}attention.{name}.kernel" for name in ("query", "key", "value"))
# Fields of attn_config, and the one value that transformers computes of each.
SUPPORTED_ATTENTION = {
    "alibi": True,
    "alibi_bias_max": 8,
    "attn_type": "multihead_attention",
    "prefix_lm": False,
    "qk_ln": False,
}


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads and feed-forward layer, and what ``attn_config`` says.

    Raises:
        ValueError: it says what is not computed.
    """
    attention = hf.get("attn_config") or {}
    for name, supported in SUPPORTED_ATTENTION.items():
        if (value := attention.get(name, supported)) != supported:
            raise ValueError(
                f"attn_config.{name} {value!r} is not supported; expected {supported!r}"
            )
    return {
        "num_kv_heads": hf["n_heads"],
        "head_dim": hf["d_model"] // hf["n_heads"],
        "ffn_dim": 4 * hf["d_model"],
        "attention_scale": attention.get("softmax_scale"),
        "qkv_clip": attention.get("clip_qkv") or None,
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The fields of attention."""
    scale, clip = config.attention_scale, config.qkv_clip
    return {"attn_config": {**SUPPORTED_ATTENTION, "softmax_scale": scale, "clip_qkv": clip}}


FAMILY = Family(
    architecture="MptForCausalLM",
    model_type="mpt",
    tensors=(
        ("transformer.wte.weight", "embedding", False),
        *norm("transformer.norm_f", "norm"),
        ("lm_head.weight", "output.kernel", False),
        *norm(HF_LAYER + "norm_1", LAYER + "attention_norm"),
        (HF_LAYER + "attn.Wqkv.weight", QKV, False),
        *projection(HF_LAYER + "attn.out_proj", LAYER + "attention.output"),
        *norm(HF_LAYER + "norm_2", LAYER + "ffn_norm"),
        *projection(HF_LAYER + "ffn.up_proj", LAYER + "ffn.up"),
        *projection(HF_LAYER + "ffn.down_proj", LAYER + "ffn.down"),
    ),
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "embed_dim": ("d_model", REQUIRED),
        "num_layers": ("n_layers", REQUIRED),
        "num_heads": ("n_heads", REQUIRED),
        "context_length": ("max_seq_len", 2048),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "bos_id": ("bos_token_id", None),
        "eos_ids": ("eos_token_id", None),
        "pad_id": ("pad_token_id", None),
    },
    fixed_fields={"alibi": Alibi(), "norm": "layer", "activation": "gelu", "gated": False},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={
        "no_bias": (True,),
        "logit_scale": (None,),
        "expansion_ratio": (4,),
        "norm_type": ("low_precision_layernorm", "layernorm"),
    },
    layer_rules=LayerRules(rope=None),
    ignored_tensors=(),
    prefix_aliases=tuple((part, f"transformer.{part}") for part in ("wte.", "norm_f.", "blocks.")),
)
