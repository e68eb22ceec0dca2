"""Nemotron-H, Nemotron Nano 2 and 3 (2504.03624): Mamba 2, attention, feed-forward or experts."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import FULL, HFConfig, LayerRules, check_layer_names
from adapt_jax.decoders.families.mamba2 import HF_LAYER, check_time_step_limit, list_mamba_rows
from adapt_jax.decoders.families.tables import FIELDS, LAYER, projection
from adapt_jax.decoders.mixer_config import Mamba2Config

MAMBA, FFN, MOE = "linear_attention", "mlp", "moe"
# types of layers, by their names now, before, and in ``hybrid_override_pattern``
LAYER_TYPES = {
    **{MAMBA: MAMBA, "mamba": MAMBA, "M": MAMBA},
    **{FULL: FULL, "attention": FULL, "*": FULL},
    **{FFN: FFN, "-": FFN},
    **{MOE: MOE, "E": MOE},
}
# older names of fields
NAMES = {
    "n_groups": "mamba_n_groups",
    "conv_kernel": "mamba_d_conv",
    "use_conv_bias": "mamba_conv_bias",
    "time_step_limit": "mamba_dt_limit",
    "chunk_size": "mamba_chunk_size",
}
MIXER = HF_LAYER + "mixer."


def _read_layer_types(hf: HFConfig) -> list[str]:
    """The type of each layer.

    Raises:
        ValueError: one is not supported, or there are more or fewer than layers.
    """
    listed = hf.get("layers_block_type") or hf.get("layer_types")
    listed = listed or hf.get("hybrid_override_pattern") or [MAMBA, MOE, FULL, FFN]
    count = hf.get("num_hidden_layers")
    check_layer_names(listed, count, LAYER_TYPES, (MAMBA, FULL, FFN, MOE), "layers_block_type")
    return [LAYER_TYPES[name] for name in listed]


def _adjust_layer(hf: HFConfig, index: int, layer: LayerConfig) -> LayerConfig:
    kind = _read_layer_types(hf)[index]
    return replace(
        layer,
        rope=None,
        has_attention=kind == FULL,
        has_state=kind == MAMBA,
        has_ffn=kind in (FFN, MOE),
        is_moe=kind == MOE,
    )


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The shape of the Mamba layers; no experts where no layer has them."""
    hf = {**{now: hf[before] for now, before in NAMES.items() if before in hf}, **hf}
    check_time_step_limit(hf)
    without_experts = {} if MOE in _read_layer_types(hf) else {"moe": None}
    return {
        **without_experts,
        "mixer": Mamba2Config(
            num_heads=hf.get("mamba_num_heads", 128),
            head_dim=hf.get("mamba_head_dim", 64),
            num_groups=hf.get("n_groups", 8),
            state_dim=hf.get("ssm_state_size", 128),
            taps=hf.get("conv_kernel", 4),
            bias=hf.get("use_bias", False),
            convolution_bias=hf.get("use_conv_bias", True),
            chunk_length=hf.get("chunk_size", 128),
            activation=hf.get("mamba_hidden_act", "silu"),
        ),
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    mixer = config.mixer
    assert isinstance(mixer, Mamba2Config)
    layers = [config.layer_config(index) for index in range(config.num_layers)]
    kinds = [
        MAMBA if one.has_state else FULL if one.has_attention else MOE if one.is_moe else FFN
        for one in layers
    ]
    moe = config.moe
    return {
        "layers_block_type": kinds,
        "mamba_num_heads": mixer.num_heads,
        "mamba_head_dim": mixer.head_dim,
        "n_groups": mixer.num_groups,
        "ssm_state_size": mixer.state_dim,
        "conv_kernel": mixer.taps,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.convolution_bias,
        "chunk_size": mixer.chunk_length,
        "mamba_hidden_act": mixer.activation,
        "moe_latent_size": (moe.latent_dim or None) if moe is not None else None,
    }


FAMILY = Family(
    architecture="NemotronHForCausalLM",
    model_type="nemotron_h",
    tensors=(
        ("backbone.embeddings.weight", "embedding", False),
        ("backbone.norm_f.weight", "norm.scale", False),
        ("lm_head.weight", "output.kernel", False),
        # before attention or Mamba, or before the feed-forward layer
        (HF_LAYER + "norm.weight", LAYER + "attention_norm.scale", False),
        (HF_LAYER + "norm.weight", LAYER + "ffn_norm.scale", False),
        *list_mamba_rows(MIXER, LAYER + "mixer."),
        *projection(MIXER + "q_proj", LAYER + "attention.query"),
        *projection(MIXER + "k_proj", LAYER + "attention.key"),
        *projection(MIXER + "v_proj", LAYER + "attention.value"),
        *projection(MIXER + "o_proj", LAYER + "attention.output"),
        *projection(MIXER + "up_proj", LAYER + "ffn.up"),
        *projection(MIXER + "down_proj", LAYER + "ffn.down"),
        (MIXER + "gate.weight", LAYER + "ffn.router", False),
        (MIXER + "gate.e_score_correction_bias", LAYER + "ffn.correction_bias", False),
        (MIXER + "experts.{e}.up_proj.weight", LAYER + "ffn.up", True),
        (MIXER + "experts.{e}.down_proj.weight", LAYER + "ffn.down", True),
        *projection(MIXER + "shared_experts.up_proj", LAYER + "ffn.shared.up"),
        *projection(MIXER + "shared_experts.down_proj", LAYER + "ffn.shared.down"),
        *projection(MIXER + "fc1_latent_proj", LAYER + "ffn.latent_down"),
        *projection(MIXER + "fc2_latent_proj", LAYER + "ffn.latent_up"),
    ),
    # as transformers 5 holds them in memory
    other_tensors=(
        (MIXER + "experts.up_proj", LAYER + "ffn.up", True),
        (MIXER + "experts.down_proj", LAYER + "ffn.down", True),
    ),
    fields={
        **{name: row for name, row in FIELDS.items() if name != "tie_embeddings"},
        "num_layers": ("num_hidden_layers", lambda hf: len(_read_layer_types(hf))),
        "ffn_dim": ("intermediate_size", 21504),
        "num_heads": ("num_attention_heads", 32),
        "num_kv_heads": ("num_key_value_heads", 8),
        "head_dim": ("head_dim", 128),
        "context_length": ("max_position_embeddings", 4096),
        "activation": ("mlp_hidden_act", "relu2"),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "mlp_bias": ("mlp_bias", False),
        "pad_id": ("pad_token_id", 0),
    },
    # transformers never ties the output to the embedding here, whatever tie_word_embeddings says
    fixed_fields={"gated": False, "tie_embeddings": False},
    moe_fields={
        "num_experts": (("n_routed_experts", "num_local_experts"), 8),
        "experts_per_token": ("num_experts_per_tok", 2),
        "ffn_dim": ("moe_intermediate_size", 7688),
        "shared_ffn_dim": ("moe_shared_expert_intermediate_size", 7688),
        "normalize_weights": ("norm_topk_prob", True),
        "num_groups": ("n_group", 1),
        "groups_per_token": ("topk_group", 1),
        "weight_scale": ("routed_scaling_factor", 1.0),
    },
    fixed_moe_fields={
        "scores": "sigmoid",
        "correction_bias": True,
        "scores_per_group": 2,
        "weight_sum_offset": 1e-20,
    },
    computed_moe_fields=lambda hf: {"latent_dim": hf.get("moe_latent_size") or 0},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=None, adjust=_adjust_layer),
    ignored_tensors=("*rotary_emb.inv_freq", "mtp.*"),
    prefix_aliases=(
        ("model.", "backbone."),
        *((part, f"backbone.{part}") for part in ("embeddings.", "layers.", "norm_f.")),
    ),
)
