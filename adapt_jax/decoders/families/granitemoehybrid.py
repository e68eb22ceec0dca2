"""Granite 4 (IBM): Mamba 2 in most layers, experts or none, and a feed-forward layer for all."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families import granite, granitemoe
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import FULL, HFConfig, LayerRules, check_layer_names
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    HF_LAYER,
    LAYER,
    PRE_NORMS,
)
from adapt_jax.decoders.mixer_config import Mamba2Config

MAMBA = "linear_attention"
LAYER_TYPES = {MAMBA: MAMBA, "mamba": MAMBA, FULL: FULL, "attention": FULL}  # new and old names
HF_MIXER, MIXER = HF_LAYER + "mamba.", LAYER + "mixer."
FFN = LAYER + "ffn."


def list_mamba_rows(hf: str, ours: str) -> tuple[tuple[object, ...], ...]:
    """The rows of the tensors of a Mamba 2 layer, by the prefixes of their names."""
    names = ("output_gate", "value", "key", "query", "time_step")
    return (
        *(
            (f"{hf}in_proj.{part}", tuple(f"{ours}{one}.{kind}" for one in names), False)
            for part, kind in (("weight", "kernel"), ("bias", "bias"))
        ),
        (hf + "conv1d.weight", ours + "convolution.taps", False),
        (hf + "conv1d.bias", ours + "convolution.bias", False),
        (hf + "A_log", ours + "decay_log", False),
        (hf + "D", ours + "skip", False),
        (hf + "dt_bias", ours + "time_step_bias", False),
        (hf + "norm.weight", ours + "norm.scale", False),
        (hf + "out_proj.weight", ours + "output.kernel", False),
        (hf + "out_proj.bias", ours + "output.bias", False),
    )


def check_time_step_limit(hf: HFConfig) -> None:
    """Time steps have no bounds.

    Raises:
        ValueError: they have; transformers bounds them in whole texts and not while decoding.
    """
    limit = hf.get("time_step_limit")
    if limit is None:
        return
    unbounded = ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}])
    if list(limit) not in unbounded:
        raise ValueError(
            f"time_step_limit {limit!r:.60} is not supported; expected [0.0, Infinity]"
        )


def _read_layer_types(hf: HFConfig) -> list[str]:
    """The type of each layer, Mamba by default.

    Raises:
        ValueError: one is not supported, or there are more or fewer than layers.
    """
    count = hf["num_hidden_layers"]
    listed = hf.get("layer_types") or hf.get("layers_block_type") or [MAMBA] * count
    check_layer_names(listed, count, LAYER_TYPES)
    return [LAYER_TYPES[name] for name in listed]


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    """Mamba or attention, which has rotary positions only where ``config.json`` says so."""
    layer = replace(layer, is_moe=(hf.get("num_local_experts", 8) or 0) > 0)
    if _read_layer_types(hf)[index] == MAMBA:
        return replace(layer, rope=None, has_attention=False, has_state=True)
    has_rope = hf.get("position_embedding_type") == "rope"
    return layer if has_rope else replace(layer, rope=None)


def read_mamba(hf: HFConfig, width: int | None = None) -> Mamba2Config:
    """The shape of the Mamba layers.

    Args:
        width: of all heads; by default ``mamba_expand`` times the hidden size.

    Raises:
        ValueError: sizes contradict each other, or time steps have bounds.
    """
    check_time_step_limit(hf)
    source = "the width of the layer"
    if width is None:
        width, source = hf.get("mamba_expand", 2) * hf["hidden_size"], "mamba_expand x hidden_size"
    num_heads, head_dim = hf.get("mamba_n_heads", 128), hf.get("mamba_d_head", "auto")
    head_dim = width // num_heads if head_dim == "auto" else head_dim
    if head_dim * num_heads != width:
        raise ValueError(
            f"mamba_n_heads {num_heads} of mamba_d_head {head_dim} are not {source}, {width}"
        )
    return Mamba2Config(
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=hf.get("mamba_n_groups", 1),
        state_dim=hf.get("mamba_d_state", 256),
        taps=hf.get("mamba_d_conv", 4),
        bias=hf.get("mamba_proj_bias", False),
        convolution_bias=hf.get("mamba_conv_bias", True),
        chunk_length=hf.get("mamba_chunk_size", 256),
    )


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The Mamba layers; the experts, or the size of the feed-forward layer without them."""
    mixer = read_mamba(hf)
    if hf.get("num_local_experts", 8):
        return {"mixer": mixer}
    return {"mixer": mixer, "ffn_dim": hf.get("shared_intermediate_size", 1024)}


def write_mamba(config: DecoderConfig) -> HFConfig:
    """The fields of ``config.json`` from which ``read_mamba`` reads the same shape.

    ``mamba_expand`` is rounded where the width is no multiple of the hidden size (Falcon-H1, which
    names the width itself).
    """
    mixer = config.mixer
    assert isinstance(mixer, Mamba2Config)
    return {
        "mamba_expand": max(mixer.value_size // config.embed_dim, 1),
        "mamba_n_heads": mixer.num_heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_n_groups": mixer.num_groups,
        "mamba_d_state": mixer.state_dim,
        "mamba_d_conv": mixer.taps,
        "mamba_proj_bias": mixer.bias,
        "mamba_conv_bias": mixer.convolution_bias,
        "mamba_chunk_size": mixer.chunk_length,
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The layers, the shape of Mamba and of the experts."""
    moe = config.moe
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    return {
        "layer_types": [FULL if layer.has_attention else MAMBA for layer in layers],
        "position_embedding_type": "rope" if any(layer.rope for layer in layers) else None,
        **write_mamba(config),
        "shared_intermediate_size": config.ffn_dim if moe is None else moe.shared_ffn_dim,
    }


FAMILY = Family(
    architecture="GraniteMoeHybridForCausalLM",
    model_type="granitemoehybrid",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *PRE_NORMS,
        *list_mamba_rows(HF_MIXER, MIXER),
        *granitemoe.EXPERTS,
        # beside experts, or alone
        *(
            row
            for part in ("shared.", "")
            for row in (
                (
                    HF_LAYER + "shared_mlp.input_linear.weight",
                    (f"{FFN}{part}gate.kernel", f"{FFN}{part}up.kernel"),
                    False,
                ),
                (
                    HF_LAYER + "shared_mlp.output_linear.weight",
                    f"{FFN}{part}down.kernel",
                    False,
                ),
            )
        ),
    ),
    other_tensors=granitemoe.FAMILY.other_tensors,
    fields={
        **{name: row for name, row in granite.FAMILY.fields.items() if name != "mlp_bias"},
        **ATTENTION_BIAS,
        "ffn_dim": ("intermediate_size", 11008),
    },
    moe_fields={
        **granitemoe.FAMILY.moe_fields,
        "ffn_dim": ("intermediate_size", 11008),
        "shared_ffn_dim": ("shared_intermediate_size", 1024),
    },
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(adjust=_adjust_layer),
)
