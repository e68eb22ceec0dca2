"""Falcon-H1 (2507.22448): attention and Mamba 2 beside each other in every layer."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.granitemoehybrid import (
    list_mamba_rows,
    read_mamba,
    write_mamba,
)
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
    width = hf.get("mamba_d_ssm", 1024)
    place = "before" if hf.get("mamba_norm_before_gate", True) else "after"
    mixer = replace(
        read_mamba(hf, width),
        output_bias=hf.get("projectors_bias", False),
        gated_norm=place if hf.get("mamba_rms_norm", False) else "none",
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
        **write_mamba(config),
        "mamba_d_ssm": mixer.value_size,
        "projectors_bias": mixer.output_bias,
        "mamba_rms_norm": mixer.gated_norm != "none",
        "mamba_norm_before_gate": mixer.gated_norm != "after",
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
