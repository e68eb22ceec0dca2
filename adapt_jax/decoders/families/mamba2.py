"""Mamba 2 (2405.21060) and Mamba-Codestral: no attention and no feed-forward layers."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.granitemoehybrid import check_time_step_limit, list_mamba_rows
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, LAYER
from adapt_jax.decoders.mixer_config import Mamba2Config

HF_LAYER = "backbone.layers.{n}."
# the fields that a decoder without attention and feed-forward layers has no use for
UNUSED = {"ffn_dim": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 1}


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    return replace(layer, rope=None, has_attention=False, has_state=True, has_ffn=False)


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The shape of the layers."""
    check_time_step_limit(hf)
    width = hf.get("expand", 2) * hf["hidden_size"]
    num_heads, head_dim = hf.get("num_heads", 128), hf.get("head_dim") or 64
    if num_heads * head_dim != width:
        raise ValueError(
            f"num_heads {num_heads} of head_dim {head_dim} are not expand times the hidden size, "
            f"{width}"
        )
    return {
        "mixer": Mamba2Config(
            num_heads=num_heads,
            head_dim=head_dim,
            num_groups=hf.get("n_groups", 8),
            state_dim=hf.get("state_size", 128),
            taps=hf.get("conv_kernel", 4),
            bias=hf.get("use_bias", False),
            convolution_bias=hf.get("use_conv_bias", True),
            chunk_length=hf.get("chunk_size", 256),
        )
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    mixer = config.mixer
    assert isinstance(mixer, Mamba2Config)
    return {
        "expand": mixer.value_size // config.embed_dim,
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "n_groups": mixer.num_groups,
        "state_size": mixer.state_dim,
        "conv_kernel": mixer.taps,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.convolution_bias,
        "chunk_size": mixer.chunk_length,
    }


FAMILY = Family(
    architecture="Mamba2ForCausalLM",
    model_type="mamba2",
    tensors=(
        ("backbone.embeddings.weight", "embedding", False),
        ("backbone.norm_f.weight", "norm.scale", False),
        ("lm_head.weight", "output.kernel", False),
        (HF_LAYER + "norm.weight", LAYER + "attention_norm.scale", False),
        *list_mamba_rows(HF_LAYER + "mixer.", LAYER + "mixer."),
    ),
    fields={
        **{name: row for name, row in FIELDS.items() if name not in UNUSED},
        "context_length": ("max_position_embeddings", 2**20),  # a state has no longest text
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "bos_id": ("bos_token_id", 0),
        "pad_id": ("pad_token_id", 1),
    },
    fixed_fields=UNUSED,
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=None, adjust=_adjust_layer),
    prefix_aliases=(
        ("backbone.embedding.", "backbone.embeddings."),
        *((part, f"backbone.{part}") for part in ("embeddings.", "layers.", "norm_f.")),
    ),
)
