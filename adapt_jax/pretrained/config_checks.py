"""The types and ranges of the fields of ``config.json``, in all families and in one.

A received file may say anything, so these are checked before any shape is made of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from adapt_jax.decoders.families import Family
from adapt_jax.pretrained.field_checks import (
    FLAG,
    TEXT,
    Check,
    find_problems,
    is_number,
    is_whole,
    list_of,
    number,
    whole,
)

__all__ = ["FIELD_CHECKS", "TOKEN", "TOKENS", "find_size_problems", "find_type_problems"]

MAX_LAYERS, MAX_WIDTH, MAX_LENGTH = 1000, 2**22, 2**31 - 1
MAX_TAPS = 64  # of a convolution
MAX_STREAMS = 64  # of hidden states
MAX_EXPERT_PARTS = 100_000  # layers times experts: this many tensors a decoder may have


def _is_layer(value: Any) -> bool:
    return is_whole(value, 0, MAX_LAYERS)


def _is_token(value: Any) -> bool:
    return is_whole(value, -1, MAX_LENGTH)


def _is_rope(value: Any, depth: int = 2) -> bool:
    """Whether this is a mapping of rotary numbers, or one such mapping for each type of layer."""
    if not isinstance(value, dict) or len(value) > 100:
        return False
    for name, one in value.items():
        if isinstance(one, dict) and depth > 1:
            if not _is_rope(one, depth - 1):
                return False
        elif isinstance(one, list):
            if len(one) > MAX_WIDTH or not all(_POSITIVE.test(entry) for entry in one):
                return False
        elif name in POSITIVE_ROPE_FIELDS:
            if one is not None and not _POSITIVE.test(one):
                return False
        elif not (one is None or isinstance(one, str | bool) or _SIGNED.test(one)):
            return False
    return True


def _is_per_layer(value: Any) -> bool:
    """Whether this is a mapping from layers to their own sizes."""
    return isinstance(value, dict) and all(
        layer.isdecimal()
        and len(layer) < 10
        and isinstance(sizes, dict)
        and all(is_whole(size, 1, MAX_WIDTH) for size in sizes.values())
        for layer, sizes in value.items()
    )


def _whole_or_list(most: int) -> Check:
    """A number, or as Hunyuan writes some, the same number for each layer."""

    def test(value: Any) -> bool:
        values = value if isinstance(value, list) else [value]
        return len(values) <= MAX_LAYERS and all(is_whole(one, 1, most) for one in values)

    return Check(f"a whole number from 1 to {most}, or one for each layer", test, nullable=True)


def _is_number_or_list(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return len(values) <= MAX_LAYERS and all(map(_SIGNED.test, values))


def _is_attention(value: Any) -> bool:
    """Whether this is what MPT says of its attention."""
    return isinstance(value, dict) and all(
        value.get(name) is None or is_number(value[name], 0, 1e9)
        for name in ("softmax_scale", "clip_qkv")
    )


def _are_layer_names(value: Any) -> bool:
    is_list = isinstance(value, list) and len(value) <= MAX_LAYERS
    return is_list and all(isinstance(name, str) for name in value)


_LAYER_NAMES = Check(f"a text for each of at most {MAX_LAYERS} layers", _are_layer_names, True)
_POSITIVE, _SIGNED = number(1e-9, 1e12), number(-1e9, 1e12)
_MAPPING = Check("an object", lambda value: isinstance(value, dict), nullable=True)
_ROPE = Check("an object of numbers, positive where it scales", _is_rope, nullable=True)
TOKEN = whole(-1, MAX_LENGTH, nullable=True)
TOKENS = Check(
    "a token id, or a list of them",
    lambda value: all(map(_is_token, value if isinstance(value, list) else [value])),
    nullable=True,
)
POSITIVE_ROPE_FIELDS = {
    *("rope_theta", "factor", "original_max_position_embeddings", "max_position_embeddings"),
    *("low_freq_factor", "high_freq_factor", "partial_rotary_factor"),
}
# By the field of DecoderConfig that a family reads it into.
FIELD_CHECKS: dict[str, Check] = {
    "vocab_size": whole(1, 2**24),
    "embed_dim": whole(1, MAX_WIDTH),
    "ffn_dim": whole(1, MAX_WIDTH),
    "num_layers": whole(1, MAX_LAYERS),
    "num_heads": whole(1, 2**14),
    "num_kv_heads": whole(1, 2**14),
    "head_dim": whole(1, 2**14),
    "context_length": whole(1, MAX_LENGTH),
    "num_learned_positions": whole(1, 2**24),
    "per_layer_embedding_dim": whole(0, 2**16),
    "activation": TEXT,
    "norm_eps": number(0, 1),
    "tie_embeddings": FLAG,
    "qkv_bias": FLAG,
    "output_bias": FLAG,
    "mlp_bias": FLAG,
    "norm_scale": FLAG,
    "qkv_clip": number(1e-9, 1e9, nullable=True),
    "norm_bias": FLAG,
    "attention_softcap": number(1e-9, 1e9, nullable=True),
    "logit_softcap": number(1e-9, 1e9, nullable=True),
    "embedding_scale": number(-1e9, 1e9),
    "input_scale": number(-1e9, 1e9),
    "residual_scale": number(-1e9, 1e9),
    "attention_scale": number(-1e9, 1e9),
    "logit_divisor": number(1e-9, 1e9),
    "bos_id": TOKEN,
    "eos_ids": TOKENS,
    "pad_id": TOKEN,
}
# By the field of MoEConfig that a family reads it into.
MOE_FIELD_CHECKS: dict[str, Check] = {
    "num_experts": whole(0, 2**14),
    "experts_per_token": whole(0, 2**14),
    "ffn_dim": whole(1, MAX_WIDTH),
    "shared_ffn_dim": whole(0, MAX_WIDTH),
    "normalize_weights": FLAG,
    "num_groups": whole(1, 2**14),
    "groups_per_token": whole(1, 2**14),
    "weight_scale": number(-1e9, 1e9),
    "min_weight_sum": number(0, 1e9),
}
# By the name in ``config.json``: what families compute other fields from.
NAME_CHECKS: dict[str, Check] = {
    "model_type": TEXT,
    "text_config": _MAPPING,
    "rope_scaling": _ROPE,
    "rope_parameters": _ROPE,
    "rope_theta": number(1e-9, 1e12, nullable=True),
    "rope_local_base_freq": number(1e-9, 1e12, nullable=True),
    "rotary_emb_base": number(1e-9, 1e12, nullable=True),
    "partial_rotary_factor": number(0, 1, nullable=True),
    "rotary_pct": number(0, 1, nullable=True),
    "original_max_position_embeddings": whole(1, MAX_LENGTH, nullable=True),
    "query_pre_attn_scalar": number(1e-9, 1e9),
    "logit_scale": number(1e-9, 1e9, nullable=True),
    "sliding_window": whole(-1, MAX_LENGTH, nullable=True),
    "sliding_window_pattern": whole(1, MAX_LAYERS),
    "max_window_layers": whole(0, MAX_LENGTH),
    "decoder_sparse_step": whole(1, MAX_LAYERS),
    "no_rope_layer_interval": whole(1, MAX_LAYERS),
    **dict.fromkeys(("layer_types", "layers_block_type", "mlp_layer_types"), _LAYER_NAMES),
    "mlp_only_layers": list_of("layers", _is_layer),
    "no_rope_layers": list_of("0 or 1 for each layer", _is_layer),
    "per_layer_config": Check("sizes by layer", _is_per_layer, nullable=True),
    "num_experts": whole(0, 2**14, nullable=True),
    "num_local_experts": whole(0, 2**14),
    "num_experts_per_tok": whole(0, 2**14),
    "top_k_experts": whole(0, 2**14, nullable=True),
    "moe_intermediate_size": _whole_or_list(MAX_WIDTH),
    "moe_topk": _whole_or_list(2**14),
    "n_shared_experts": whole(0, 2**14, nullable=True),
    "first_k_dense_replace": whole(0, MAX_LAYERS),
    "swiglu_alpha": number(-1e9, 1e9),
    "swiglu_limit": number(1e-9, 1e9),
    "kv_lora_rank": whole(1, MAX_WIDTH),
    "q_lora_rank": whole(1, MAX_WIDTH, nullable=True),
    "qk_nope_head_dim": whole(1, 2**14),
    "qk_rope_head_dim": whole(1, 2**14),
    "v_head_dim": whole(1, 2**14, nullable=True),
    "n_group": whole(1, 2**14, nullable=True),
    "topk_group": whole(1, 2**14, nullable=True),
    "moe_layer_start_index": whole(0, MAX_LAYERS),
    "moe_layer_end_index": whole(-1, MAX_LAYERS),
    "moe_layer_interval": whole(1, MAX_LAYERS),
    "moe_num_shared_experts": whole(0, 2**14),
    "moe_latent_size": whole(1, MAX_WIDTH, nullable=True),
    "router_jitter_noise": number(0, 1e3),
    "moe_layers": list_of("layers", _is_layer),
    "interleave_moe_layer_step": whole(1, MAX_LAYERS),
    "attention_chunk_size": whole(1, MAX_LENGTH, nullable=True),
    "floor_scale": whole(1, MAX_LENGTH),
    "attn_scale": number(-1e9, 1e9),
    # the first files of Llama 4 have a number, which stands for true
    "attn_temperature_tuning": Check("true or false", lambda value: isinstance(value, bool | int)),
    "scale_depth": number(-1e9, 1e9, nullable=True),
    "dim_model_base": whole(1, MAX_WIDTH, nullable=True),
    "conv_L_cache": whole(1, MAX_TAPS),
    "num_dense_layers": whole(0, MAX_LAYERS),
    "block_ff_dim": whole(1, MAX_WIDTH),
    "block_multiple_of": whole(1, MAX_WIDTH),
    "block_ffn_dim_multiplier": number(1e-9, 1e3, nullable=True),
    **dict.fromkeys(("full_attn_idxs", "attn_layer_indices"), list_of("layers", _is_layer)),
    "full_attention_interval": whole(1, MAX_LAYERS),
    "n_groups": whole(1, 2**14),
    "state_size": whole(1, 2**16),
    "conv_kernel": whole(1, MAX_TAPS),
    "expand": whole(1, 2**10),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), whole(1, 2**20)),
    "num_heads": whole(1, 2**14),
    "head_dim": whole(1, 2**14, nullable=True),
    "mamba_num_heads": whole(1, 2**14),
    "mamba_head_dim": whole(1, 2**16),
    "ssm_state_size": whole(1, 2**16),
    "time_step_rank": Check(
        "auto, or a whole number", lambda value: value == "auto" or is_whole(value, 1, MAX_WIDTH)
    ),
    "mixer_rms_eps": number(0, 1),
    "mamba_hidden_act": TEXT,
    "hybrid_override_pattern": Check(
        f"a letter for each of at most {MAX_LAYERS} layers",
        lambda value: isinstance(value, str) and len(value) <= MAX_LAYERS,
    ),
    "mamba_n_heads": whole(1, 2**14),
    "mamba_n_groups": whole(1, 2**14),
    "mamba_d_state": whole(1, 2**16),
    "mamba_d_head": Check(
        "auto, or a whole number", lambda value: value == "auto" or is_whole(value, 1, 2**16)
    ),
    "mamba_d_conv": whole(1, MAX_TAPS),
    "mamba_expand": whole(1, 2**10),
    "mamba_d_ssm": whole(1, MAX_WIDTH, nullable=True),
    "lm_head_multiplier": number(1e-9, 1e9),
    **dict.fromkeys(("mlp_multipliers", "ssm_multipliers"), list_of("numbers", _SIGNED.test)),
    **dict.fromkeys(
        (
            *("attention_in_multiplier", "attention_out_multiplier", "key_multiplier"),
            *("ssm_in_multiplier", "ssm_out_multiplier"),
        ),
        _SIGNED,
    ),
    "intermediate_size": _whole_or_list(MAX_WIDTH),
    "activation_sparsity_pattern": Check(
        "a number, or one for each layer", _is_number_or_list, nullable=True
    ),
    "altup_num_inputs": whole(1, MAX_STREAMS),
    "altup_active_idx": whole(0, MAX_STREAMS),
    "laurel_rank": whole(1, MAX_WIDTH),
    "shared_intermediate_size": whole(1, MAX_WIDTH),
    "shared_expert_intermediate_size": whole(1, MAX_WIDTH),
    **dict.fromkeys(
        ("time_step_limit", "mamba_dt_limit"),
        Check(
            "two numbers", lambda value: isinstance(value, list) and len(value) == 2, nullable=True
        ),
    ),
    "linear_num_key_heads": whole(1, 2**14),
    "linear_num_value_heads": whole(1, 2**14),
    "linear_key_head_dim": whole(1, 2**14),
    "linear_value_head_dim": whole(1, 2**14),
    "linear_conv_kernel_dim": whole(1, MAX_TAPS),
    "n_embed": whole(1, MAX_WIDTH, nullable=True),
    "alibi": replace(FLAG, nullable=True),
    "attn_config": Check("an object of numbers and texts", _is_attention, nullable=True),
    "n_inner": whole(1, MAX_WIDTH, nullable=True),
    "ffn_hidden_size": whole(1, MAX_WIDTH, nullable=True),
    "word_embed_proj_dim": whole(1, MAX_WIDTH, nullable=True),
    "rotary_dim": whole(1, 2**14, nullable=True),
    "window_size": whole(1, MAX_LENGTH),
    "attention_types": list_of("patterns of layers", lambda value: isinstance(value, list)),
    "num_kv_heads": whole(1, 2**14, nullable=True),
    "num_ln_in_parallel_attn": whole(1, 2, nullable=True),
    "global_head_dim": whole(1, 2**14),
    "num_global_key_value_heads": whole(1, 2**14, nullable=True),
    "num_kv_shared_layers": whole(0, MAX_LAYERS),
    "hidden_size_per_layer_input": whole(0, 2**16),
    "vocab_size_per_layer_input": whole(1, 2**24),
    **dict.fromkeys(
        (
            *("use_sliding_window", "attention_k_eq_v", "enable_moe_block", "norm_topk_prob"),
            *("use_double_wide_mlp", "use_parallel_residual", "scale_attn_weights"),
            *("qk_layernorm", "new_decoder_architecture", "multi_query", "parallel_attn"),
            *("use_qk_norm", "rope_interleave"),
            *("conv_bias", "block_auto_adjust_ff_dim", "tie_embedding"),
            "use_expert_bias",
            *("do_layer_norm_before", "_remove_final_layer_norm"),
            *("mamba_proj_bias", "mamba_conv_bias", "use_bias", "use_conv_bias"),
            *("projectors_bias", "mamba_rms_norm", "mamba_norm_before_gate"),
            "altup_correct_scale",
        ),
        FLAG,
    ),
}


def find_type_problems(hf: Mapping[str, Any]) -> list[str]:
    """The fields that are not of the type or in the range that they have in every family."""
    problems = find_problems(hf, NAME_CHECKS)
    if isinstance(text := hf.get("text_config"), dict):
        problems += [f"text_config.{problem}" for problem in find_problems(text, NAME_CHECKS)]
    return problems


def find_size_problems(family: Family, hf: Mapping[str, Any]) -> list[str]:
    """The fields that are not of the type or in the range that this family needs."""
    values = {**hf, **(hf.get("text_config") or {})}
    problems = []
    for check, name, default in _list_field_checks(family):
        if name not in values:
            continue
        # the value that a family computes for an absent field is also that of null
        check = replace(check, nullable=check.nullable or callable(default) or default is None)
        if problem := check.find_problem(name, values[name]):
            problems.append(problem)
    layers = values.get(family.fields["num_layers"][0], 1)
    experts = max((values.get(name) or 0 for name in _name_experts(family)), default=0)
    if not problems and layers * experts > MAX_EXPERT_PARTS:
        problems.append(
            f"num_experts: {experts} in {layers} layers; expected {MAX_EXPERT_PARTS} at most in all"
        )
    return list(dict.fromkeys(problems))


def _list_field_checks(family: Family) -> Iterator[tuple[Check, str, Any]]:
    """The check, name and default of every field that has a check in this family."""
    for key, (name, default) in family.fields.items():
        if key in FIELD_CHECKS:
            yield FIELD_CHECKS[key], name, default
    for key, (names, default) in family.moe_fields.items():
        if key in MOE_FIELD_CHECKS:
            for name in (names,) if isinstance(names, str) else names:
                yield MOE_FIELD_CHECKS[key], name, default


def _name_experts(family: Family) -> tuple[str, ...]:
    """The fields of ``config.json`` that may count a layer's experts."""
    names = family.moe_fields.get("num_experts", (("num_experts", "num_local_experts"), 0))[0]
    return (names,) if isinstance(names, str) else names
