"""Qwen3.5, text: gated delta nets in most layers, gated attention in every fourth."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import FULL, HFConfig, LayerRules, check_layer_names
from adapt_jax.decoders.families.tables import (
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    GATED_FFN,
    HF_LAYER,
    LAYER,
    MULTIMODAL,
    NO_BOS_AND_EOS,
    PRE_NORMS,
    norm,
    projection,
)
from adapt_jax.decoders.mixer_config import DeltaNetConfig
from adapt_jax.decoders.rope import Rope

LINEAR = "linear_attention"
HF_MIXER, MIXER = HF_LAYER + "linear_attn.", LAYER + "mixer."
QKV = tuple(f"{MIXER}{name}.kernel" for name in ("query", "key", "value"))
QUERY_AND_GATE = tuple(f"{LAYER}attention.{name}" for name in ("query", "output_gate"))
# rows that Qwen3-Next shares
ATTENTION = (
    # a group for each head: its queries, then its gate
    *(
        (
            f"{HF_LAYER}self_attn.q_proj.{hf}",
            tuple(f"{name}.{part}" for name in QUERY_AND_GATE),
            False,
            "num_heads",
        )
        for hf, part in (("weight", "kernel"), ("bias", "bias"))
    ),
    *projection(HF_LAYER + "self_attn.k_proj", LAYER + "attention.key"),
    *projection(HF_LAYER + "self_attn.v_proj", LAYER + "attention.value"),
    *projection(HF_LAYER + "self_attn.o_proj", LAYER + "attention.output"),
    *norm(HF_LAYER + "self_attn.q_norm", LAYER + "attention.query_norm"),
    *norm(HF_LAYER + "self_attn.k_norm", LAYER + "attention.key_norm"),
)
DELTA_NET = (
    (HF_MIXER + "conv1d.weight", MIXER + "convolution.taps", False),
    (HF_MIXER + "A_log", MIXER + "decay_log", False),
    (HF_MIXER + "dt_bias", MIXER + "decay_bias", False),
    (HF_MIXER + "norm.weight", MIXER + "norm.scale", False),
    (HF_MIXER + "out_proj.weight", MIXER + "output.kernel", False),
)


def adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Attention in the layers that ``layer_types`` names, or else in every fourth."""
    count = hf["num_hidden_layers"]
    interval = hf.get("full_attention_interval", 4)
    listed = hf.get("layer_types") or [
        LINEAR if (number + 1) % interval else FULL for number in range(count)
    ]
    check_layer_names(listed, count, (FULL, LINEAR))
    if listed[index] == FULL:
        return layer
    return replace(layer, rope=None, has_attention=False, has_state=True)


def read_mixer(hf: HFConfig) -> HFConfig:
    """The shape of the delta net."""
    return {
        "mixer": DeltaNetConfig(
            num_key_heads=hf.get("linear_num_key_heads", 16),
            num_value_heads=hf.get("linear_num_value_heads", 32),
            key_dim=hf.get("linear_key_head_dim", 128),
            value_dim=hf.get("linear_value_head_dim", 128),
            taps=hf.get("linear_conv_kernel_dim", 4),
        )
    }


def write_layers(config: DecoderConfig) -> HFConfig:
    """The type of each layer, and the shape of the delta net."""
    mixer = config.mixer
    assert isinstance(mixer, DeltaNetConfig)
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    return {
        "layer_types": [FULL if layer.has_attention else LINEAR for layer in layers],
        "linear_num_key_heads": mixer.num_key_heads,
        "linear_num_value_heads": mixer.num_value_heads,
        "linear_key_head_dim": mixer.key_dim,
        "linear_value_head_dim": mixer.value_dim,
        "linear_conv_kernel_dim": mixer.taps,
    }


FAMILY = Family(
    architecture="Qwen3_5ForCausalLM",
    model_type="qwen3_5_text",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *DELTA_NET,
        (HF_MIXER + "in_proj_qkv.weight", QKV, False),
        (HF_MIXER + "in_proj_z.weight", MIXER + "output_gate.kernel", False),
        (HF_MIXER + "in_proj_b.weight", MIXER + "strength.kernel", False),
        (HF_MIXER + "in_proj_a.weight", MIXER + "decay.kernel", False),
        *GATED_FFN,
        *PRE_NORMS,
    ),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **NO_BOS_AND_EOS,
        "num_kv_heads": ("num_key_value_heads", 4),
        "head_dim": ("head_dim", 256),
        "context_length": ("max_position_embeddings", 32768),
    },
    fixed_fields={"norm": "rms_plus_one", "qk_norm": "head", "attention_gate": True},
    computed_fields=read_mixer,
    extra_hf_fields=write_layers,
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.25),
        partial_rotary_field="partial_rotary_factor",
        adjust=adjust_layer,
    ),
    ignored_tensors=("*rotary_emb.inv_freq", "*visual.*", "mtp.*"),
    prefix_aliases=MULTIMODAL["prefix_aliases"],
)
