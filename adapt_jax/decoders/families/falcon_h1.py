"""Falcon-H1 (2507.22448): attention and Mamba 2 beside each other in every layer."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.granitemoehybrid import check_time_step_limit, list_mamba_rows
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    HF_LAYER,
    LAYER,
    MLP_BIAS,
    norm,
    projection,
)
from adapt_jax.decoders.mixer_config import Mamba2Config
from adapt_jax.decoders.part_configs import Multipliers

# Factors of whole inputs and outputs, by their fields here and in config.json.
FACTORS = {
    "attention_input": "attention_in_multiplier",
    "attention_output": "attention_out_multiplier",
    "key": "key_multiplier",
    "mixer_input": "ssm_in_multiplier",
    "mixer_output": "ssm_out_multiplier",
}


def _read_multipliers(hf: HFConfig) -> Multipliers:
    """The factors of inputs and outputs.

    Raises:
        ValueError: a list has the wrong length.
    """
    of_ffn = hf.get("mlp_multipliers") or (1.0, 1.0)
    if len(of_ffn) != 2:
        raise ValueError(f"mlp_multipliers has {len(of_ffn)} entries; expected 2")
    return Multipliers(
        **{ours: float(hf.get(name, 1.0)) for ours, name in FACTORS.items()},
        mixer_projections=tuple(float(one) for one in hf.get("ssm_multipliers") or (1.0,) * 5),
        ffn_gate=float(of_ffn[0]),
        ffn_output=float(of_ffn[1]),
    )


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The shape of Mamba, the factors, and the divisor of logits."""
    check_time_step_limit(hf)
    width = hf.get("mamba_d_ssm", 1024)
    width = hf.get("mamba_expand", 2) * hf["hidden_size"] if width is None else width
    num_heads, head_dim = hf.get("mamba_n_heads", 128), hf.get("mamba_d_head", "auto")
    head_dim = width // num_heads if head_dim == "auto" else head_dim
    if head_dim * num_heads != width:
        raise ValueError(f"mamba_n_heads {num_heads} of mamba_d_head {head_dim} are not {width}")
    before_gate = hf.get("mamba_norm_before_gate", True)
    place = "before" if before_gate else "after"
    mixer = Mamba2Config(
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=hf.get("mamba_n_groups", 1),
        state_dim=hf.get("mamba_d_state", 256),
        taps=hf.get("mamba_d_conv", 4),
        bias=hf.get("mamba_proj_bias", False),
        convolution_bias=hf.get("mamba_conv_bias", True),
        output_bias=hf.get("projectors_bias", False),
        gated_norm=place if hf.get("mamba_rms_norm", False) else "none",
        chunk_length=hf.get("mamba_chunk_size", 256),
    )
    return {
        "mixer": mixer,
        "multipliers": _read_multipliers(hf),
        "logit_divisor": 1 / hf.get("lm_head_multiplier", 1.0),
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The shape of Mamba, the factors, and the scale of logits."""
    mixer, factors = config.mixer, config.multipliers
    assert isinstance(mixer, Mamba2Config)
    return {
        "mamba_d_ssm": mixer.value_size,
        "mamba_n_heads": mixer.num_heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_n_groups": mixer.num_groups,
        "mamba_d_state": mixer.state_dim,
        "mamba_d_conv": mixer.taps,
        "mamba_proj_bias": mixer.bias,
        "mamba_conv_bias": mixer.convolution_bias,
        "projectors_bias": mixer.output_bias,
        "mamba_rms_norm": mixer.gated_norm != "none",
        "mamba_norm_before_gate": mixer.gated_norm != "after",
        "mamba_chunk_size": mixer.chunk_length,
        **{name: getattr(factors, ours) for ours, name in FACTORS.items()},
        "ssm_multipliers": list(factors.mixer_projections),
        "mlp_multipliers": [factors.ffn_gate, factors.ffn_output],
        "lm_head_multiplier": 1 / config.logit_divisor,
    }


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Every layer has both."""
    return replace(layer, has_state=True)


HF_FFN = HF_LAYER + "feed_forward."
FAMILY = Family(
    architecture="FalconH1ForCausalLM",
    model_type="falcon_h1",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *norm("model.final_layernorm", "norm"),
        *ATTENTION,
        *list_mamba_rows(HF_LAYER + "mamba.", LAYER + "mixer."),
        *projection(HF_FFN + "gate_proj", LAYER + "ffn.gate"),
        *projection(HF_FFN + "up_proj", LAYER + "ffn.up"),
        *projection(HF_FFN + "down_proj", LAYER + "ffn.down"),
        *norm(HF_LAYER + "input_layernorm", LAYER + "attention_norm"),
        *norm(HF_LAYER + "pre_ff_layernorm", LAYER + "ffn_norm"),
    ),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        **MLP_BIAS,
        "num_kv_heads": ("num_key_value_heads", 8),
        "context_length": ("max_position_embeddings", 8192),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "pad_id": ("pad_token_id", 0),
        "embedding_scale": ("embedding_multiplier", 1.0),
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(adjust=_adjust_layer),
    needs_tokens=lambda config: config.embedding_scale != 1,
)
