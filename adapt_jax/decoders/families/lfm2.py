"""LFM2 (2511.23404): short convolutions in most layers, attention in the others; and experts."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import FULL, HFConfig, LayerRules, check_layer_names
from adapt_jax.decoders.families.tables import FIELDS, HF_LAYER, LAYER, norm, projection
from adapt_jax.decoders.mixer_config import ConvolutionConfig
from adapt_jax.decoders.rope import Rope

CONVOLUTION = "conv"


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Attention in the layers that ``layer_types`` or the older ``full_attn_idxs`` names."""
    if listed := hf.get("layer_types"):
        check_layer_names(listed, hf["num_hidden_layers"], (FULL, CONVOLUTION))
        attends = listed[index] == FULL
    else:
        indices = hf.get("full_attn_idxs")
        attends = indices is None or index in indices
    return layer if attends else replace(layer, rope=None, has_attention=False, has_state=True)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The convolution; the feed-forward size, which ``config.json`` says indirectly; tying."""
    size = hf.get("block_ff_dim", hf.get("intermediate_size", 12288))
    if hf.get("block_auto_adjust_ff_dim", True):
        size = 2 * size // 3
        factor, multiple = hf.get("block_ffn_dim_multiplier", 1.0), hf.get("block_multiple_of", 256)
        if factor is not None:
            size = -(-int(factor * size) // multiple) * multiple
    return {"ffn_dim": size, **_read_mixer(hf)}


def _read_mixer(hf: HFConfig) -> HFConfig:
    """The convolution, and whether embeddings are tied."""
    return {
        "mixer": ConvolutionConfig(hf.get("conv_L_cache", 3), hf.get("conv_bias", False)),
        "tie_embeddings": hf.get("tie_embedding", hf.get("tie_word_embeddings", True)),
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The layers, the convolution, and that the feed-forward size is not adjusted again."""
    assert isinstance(config.mixer, ConvolutionConfig)
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    return {
        "layer_types": [FULL if layer.has_attention else CONVOLUTION for layer in layers],
        "conv_L_cache": config.mixer.taps,
        "conv_bias": config.mixer.bias,
        "block_auto_adjust_ff_dim": False,
    }


FAMILY = Family(
    architecture="Lfm2ForCausalLM",
    model_type="lfm2",
    tensors=(
        ("model.embed_tokens.weight", "embedding", False),
        *norm("model.embedding_norm", "norm"),
        ("lm_head.weight", "output.kernel", False),
        *projection(HF_LAYER + "self_attn.q_proj", LAYER + "attention.query"),
        *projection(HF_LAYER + "self_attn.k_proj", LAYER + "attention.key"),
        *projection(HF_LAYER + "self_attn.v_proj", LAYER + "attention.value"),
        *projection(HF_LAYER + "self_attn.out_proj", LAYER + "attention.output"),
        *norm(HF_LAYER + "self_attn.q_layernorm", LAYER + "attention.query_norm"),
        *norm(HF_LAYER + "self_attn.k_layernorm", LAYER + "attention.key_norm"),
        *projection(HF_LAYER + "conv.in_proj", LAYER + "mixer.input"),
        (HF_LAYER + "conv.conv.weight", LAYER + "mixer.convolution.taps", False),
        (HF_LAYER + "conv.conv.bias", LAYER + "mixer.convolution.bias", False),
        *projection(HF_LAYER + "conv.out_proj", LAYER + "mixer.output"),
        *projection(HF_LAYER + "feed_forward.w1", LAYER + "ffn.gate"),
        *projection(HF_LAYER + "feed_forward.w3", LAYER + "ffn.up"),
        *projection(HF_LAYER + "feed_forward.w2", LAYER + "ffn.down"),
        *norm(HF_LAYER + "operator_norm", LAYER + "attention_norm"),
        *norm(HF_LAYER + "ffn_norm", LAYER + "ffn_norm"),
    ),
    fields={
        **{name: row for name, row in FIELDS.items() if name != "activation"},
        "ffn_dim": ("intermediate_size", 12288),
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 128_000),
        "norm_eps": ("norm_eps", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
        "pad_id": ("pad_token_id", 0),
    },
    fixed_fields={"qk_norm": "head"},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=Rope(theta=1e6), adjust=_adjust_layer),
    prefix_aliases=(
        *((part, f"model.{part}") for part in ("embed_tokens.", "layers.", "embedding_norm.")),
    ),
)


def _adjust_moe_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """All layers but the first few have experts."""
    layer = _adjust_layer(hf, index, layer)
    return replace(layer, is_moe=index >= hf.get("num_dense_layers", 2))


def _write_moe_layers(config: DecoderConfig) -> HFConfig:
    layers = [config.layer_config(index).is_moe for index in range(config.num_layers)]
    hf = {name: value for name, value in _extra_hf_fields(config).items() if "block" not in name}
    bias = config.moe is not None and config.moe.correction_bias
    return {**hf, "num_dense_layers": layers.count(False), "use_expert_bias": bias}


HF_FFN, FFN = HF_LAYER + "feed_forward.", LAYER + "ffn."
MOE = replace(
    FAMILY,
    architecture="Lfm2MoeForCausalLM",
    model_type="lfm2_moe",
    tensors=(
        *FAMILY.tensors,
        (HF_FFN + "gate.weight", FFN + "router", False),
        (HF_FFN + "expert_bias", FFN + "correction_bias", False),
        (HF_FFN + "experts.{e}.w1.weight", FFN + "gate", True),
        (HF_FFN + "experts.{e}.w3.weight", FFN + "up", True),
        (HF_FFN + "experts.{e}.w2.weight", FFN + "down", True),
    ),
    other_tensors=(
        (HF_FFN + "experts.gate_up_proj", (FFN + "gate", FFN + "up"), True),
        (HF_FFN + "experts.down_proj", FFN + "down", True),
    ),
    fields={**FAMILY.fields, "ffn_dim": ("intermediate_size", 7168)},
    moe_fields={
        "num_experts": ("num_experts", 32),
        "experts_per_token": ("num_experts_per_tok", 4),
        "ffn_dim": ("moe_intermediate_size", 1792),
        "normalize_weights": ("norm_topk_prob", True),
        "weight_scale": ("routed_scaling_factor", 1.0),
    },
    fixed_moe_fields={"scores": "sigmoid", "weight_sum_offset": 1e-6},
    computed_moe_fields=lambda hf: {"correction_bias": hf.get("use_expert_bias", True)},
    computed_fields=_read_mixer,
    extra_hf_fields=_write_moe_layers,
    layer_rules=replace(FAMILY.layer_rules, adjust=_adjust_moe_layer),
)
