"""Mamba (2312.00752) and Falcon-Mamba (2410.05355): no attention and no feed-forward layers."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import mamba2
from adapt_jax.decoders.families.layer_rules import HFConfig
from adapt_jax.decoders.families.tables import LAYER, projection
from adapt_jax.decoders.mixer_config import MambaConfig

HF_MIXER, MIXER = mamba2.HF_LAYER + "mixer.", LAYER + "mixer."


def _read_mixer(hf: HFConfig, norm_eps: float | None = None) -> HFConfig:
    """The shape of the layers."""
    embed, rank = hf["hidden_size"], hf.get("time_step_rank", "auto")
    inner = hf.get("intermediate_size")
    return {
        "mixer": MambaConfig(
            inner_dim=int(hf.get("expand", 2) * embed) if inner is None else inner,
            state_dim=hf.get("state_size", 16),
            time_step_rank=-(-embed // 16) if rank == "auto" else rank,
            taps=hf.get("conv_kernel", 4),
            bias=hf.get("use_bias", False),
            convolution_bias=hf.get("use_conv_bias", True),
            norm_eps=norm_eps,
        )
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    mixer = config.mixer
    assert isinstance(mixer, MambaConfig)
    eps = {} if mixer.norm_eps is None else {"mixer_rms_eps": mixer.norm_eps}
    return {
        **eps,
        "intermediate_size": mixer.inner_dim,
        "state_size": mixer.state_dim,
        "time_step_rank": mixer.time_step_rank,
        "conv_kernel": mixer.taps,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.convolution_bias,
    }


def _fuse(name: str, *parameters: str) -> tuple[tuple[object, ...], ...]:
    """The rows of a projection that holds several of ours."""
    return tuple(
        (f"{HF_MIXER}{name}.{part}", tuple(f"{MIXER}{one}.{kind}" for one in parameters), False)
        for part, kind in (("weight", "kernel"), ("bias", "bias"))
    )


FAMILY = replace(
    mamba2.FAMILY,
    architecture="MambaForCausalLM",
    model_type="mamba",
    tensors=(
        *(row for row in mamba2.FAMILY.tensors if MIXER not in str(row)),
        *_fuse("in_proj", "value", "output_gate"),
        *_fuse("x_proj", "time_step_down", "key", "query"),
        *projection(HF_MIXER + "dt_proj", MIXER + "time_step"),
        (HF_MIXER + "conv1d.weight", MIXER + "convolution.taps", False),
        (HF_MIXER + "conv1d.bias", MIXER + "convolution.bias", False),
        (HF_MIXER + "A_log", MIXER + "decay_log", False),
        (HF_MIXER + "D", MIXER + "skip", False),
        *projection(HF_MIXER + "out_proj", MIXER + "output"),
    ),
    fields={
        **mamba2.FAMILY.fields,
        "tie_embeddings": ("tie_word_embeddings", True),
        "eos_ids": ("eos_token_id", 0),
        "pad_id": ("pad_token_id", 0),
    },
    computed_fields=_read_mixer,
    extra_hf_fields=_extra_hf_fields,
)
FALCON = replace(
    FAMILY,
    architecture="FalconMambaForCausalLM",
    model_type="falcon_mamba",
    computed_fields=lambda hf: _read_mixer(hf, hf.get("mixer_rms_eps", 1e-6)),
)
