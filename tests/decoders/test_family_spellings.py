"""config.json in older spellings and without fields means what it means in transformers."""

import copy
from typing import Any

import pytest
from family_cases import CASES
from family_fields import FULL, LLAMA3, LONG, MPT, OWN_SIZES, SCALED_LONG, SIZES, SLIDING, YARN

from adapt_jax.decoders.families import FAMILIES

SIZE_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers")


SIZE_FIELDS += ("num_attention_heads", "num_key_value_heads")


THETA = {"rope_theta": 777.0}


LINEAR = {"rope_scaling": {"type": "linear", "factor": 3.0}}


OLDER: dict[str, list[dict[str, Any]]] = {
    "llama": [THETA, {**THETA, **LINEAR}, {**THETA, "rope_scaling": {**LLAMA3}}],
    "mistral": [{**THETA, "sliding_window": None}, {**THETA, **LINEAR, "sliding_window": 9}],
    "mixtral": [{**THETA, "sliding_window": 9}],
    "qwen2": [
        {**THETA, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        {**THETA, "use_sliding_window": False, "sliding_window": 9, "max_window_layers": 1},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ],
    "qwen3": [{**THETA, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}],
    "qwen3_moe": [{**THETA, "decoder_sparse_step": 2}, {"mlp_only_layers": [0]}],
    "qwen2_moe": [
        {**THETA, "decoder_sparse_step": 2, "use_sliding_window": True, "max_window_layers": 1},
        {"mlp_only_layers": [0], "num_experts": 4},
    ],
    "olmoe": [{**THETA, "clip_qkv": 8.0}],
    "granitemoe": [{**THETA}],
    "gpt_oss": [{**THETA, "rope_scaling": YARN}, {"sliding_window": 7, "swiglu_limit": 5.0}],
    "glm4_moe": [{**THETA, "partial_rotary_factor": 0.25, "n_routed_experts": 16, "n_group": 2}],
    "dots1": [{**THETA, "sliding_window": None, "n_shared_experts": 2}],
    "gemma": [{**THETA, "hidden_act": "gelu"}],
    "gemma2": [{**THETA, "sliding_window": 9}],
    "gemma3_text": [
        {
            **THETA,
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
            "rope_local_base_freq": 55.0,
            "sliding_window_pattern": 2,
        },
        {"rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 9.0}}},
    ],
    "phi3": [
        {"rope_scaling": {**LONG, "type": "su"}, "original_max_position_embeddings": 64, **THETA},
        {"rope_scaling": LONG, "partial_rotary_factor": 0.75},
    ],
    "olmo2": [{**THETA, **LINEAR}],
    "olmo3": [{**THETA, "rope_scaling": YARN}, {"rope_theta": 5.0}],
    "smollm3": [{**THETA, "no_rope_layer_interval": 2}, {"no_rope_layers": [0, 1], **LINEAR}],
    "granite": [{**THETA, **LINEAR}],
    "gemma3n_text": [
        {**THETA, "rope_local_base_freq": 55.0, "activation_sparsity_pattern": [0.5] * 5},
        {"num_hidden_layers": 16, "intermediate_size": 48, "layer_types": None},
    ],
    "bamba": [{**THETA, "attn_layer_indices": [0]}],
    "falcon_h1": [
        {**THETA, "mamba_d_ssm": None, "mamba_d_head": "auto", "mlp_multipliers": [0.5, 2.0]}
    ],
    "gemma4_text": [
        {"global_head_dim": 24, "num_hidden_layers": 7, "num_kv_shared_layers": 1},
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {"num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0},
    ],
    "glm4": [{**THETA, "partial_rotary_factor": 0.25}],
    "stablelm": [{**THETA, "partial_rotary_factor": 0.5}],
    "starcoder2": [{**THETA, "sliding_window": 9}],
    "exaone4": [{**THETA, "sliding_window": None, "layer_types": [FULL, FULL]}],
    "cohere2": [{**THETA, "sliding_window_pattern": 2}],
    "bloom": [
        {"seq_length": 512},
        {"n_layer": 3, "layer_norm_epsilon": 0.1},
    ],
    "mpt": [{"attn_config": {"clip_qkv": 6.0, "attn_impl": "triton"}, "learned_pos_emb": True}],
    "gptj": [{"n_inner": 40, "rotary_dim": 8}],
    "cohere": [{**THETA, "use_qk_norm": True}],
    "ernie4_5": [{**THETA, "head_dim": None}],
    "hunyuan_v1_dense": [
        {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}, "head_dim": 16},
        {**THETA, "rope_scaling": {"type": "dynamic", "factor": 3.0}, "head_dim": 16},
    ],
    "qwen2_vl_text": [
        {},
        {**THETA, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ],
    "qwen3_vl_text": [{}, THETA],
    "qwen3_vl_moe_text": [{**THETA, "tie_word_embeddings": False}],
    "glm4v_text": [{}, {**THETA, "partial_rotary_factor": 0.25}],
    "hunyuan_v1_moe": [{**THETA, "num_experts": 4, "moe_topk": 2}],
    "ernie4_5_moe": [
        {**THETA, "moe_layer_start_index": 0, "moe_layer_interval": 2, "head_dim": None},
        {"moe_layer_start_index": 0, "moe_layer_end_index": 0, "moe_num_shared_experts": 0},
    ],
    "minimax_m2": [{**THETA, "rotary_dim": 64}, {"partial_rotary_factor": 0.25, "rotary_dim": 64}],
    "phimoe": [
        {**THETA, "sliding_window": 9},
        {**THETA, "rope_scaling": {**SCALED_LONG, "type": "longrope"}},
    ],
    "nemotron_h": [{"layers_block_type": ["mamba", "moe", "mlp"], "n_routed_experts": 6}],
    "mamba": [{"time_step_rank": 7, "expand": 3}, {"intermediate_size": 40}],
    "falcon_mamba": [{"mixer_rms_eps": 0.1}],
    "nemotron": [{**THETA, "partial_rotary_factor": 0.25}],
    "persimmon": [{**THETA, "partial_rotary_factor": 0.25}],
    "vaultgemma": [{**THETA, "sliding_window": 9}],
    "opt": [
        {"word_embed_proj_dim": 32},
        {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ],
    "phi": [{**THETA, "partial_rotary_factor": 0.25}, {**THETA, **LINEAR}],
    "falcon": [
        {**THETA, "new_decoder_architecture": True, "num_kv_heads": 2},
        {"multi_query": False, "parallel_attn": False, "alibi": False, **LINEAR},
    ],
    "gpt_neox": [{"rotary_emb_base": 777, "rotary_pct": 0.5}, {**LINEAR, "rotary_pct": 1.0}],
    "ministral3": [{}],
    "deepseek_v2": [
        {**THETA, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        {**THETA, "norm_topk_prob": False, "n_shared_experts": 3},
    ],
    "deepseek_v3": [
        {"rope_scaling": {**YARN, "mscale_all_dim": 0.7}, "first_k_dense_replace": 1, "n_group": 4},
    ],
    "glm4_moe_lite": [{**THETA, "rope_interleave": False}],
    "llama4_text": [
        {**THETA, "no_rope_layer_interval": 2, "interleave_moe_layer_step": 2},
        {"no_rope_layers": [0, 1], "attention_chunk_size": 5, "rope_scaling": LLAMA3},
    ],
    "minicpm3": [
        {**THETA, "q_lora_rank": None, "v_head_dim": None, "scale_depth": None},
        {"rope_scaling": {**YARN, "mscale_all_dim": 0.7}, "dim_model_base": None},
    ],
    "lfm2": [
        {**THETA, "full_attn_idxs": [1], "tie_embedding": False},
        {"block_ff_dim": 96, "block_auto_adjust_ff_dim": False},
    ],
    "qwen3_5_text": [{**THETA, "full_attention_interval": 2}],
    "granitemoehybrid": [{**THETA, "layers_block_type": ["linear_attention", FULL]}],
}


@pytest.mark.parametrize(
    ("model_type", "older"),
    [
        *((model_type, {}) for model_type in sorted({case[0] for case in CASES.values()})),
        *((model_type, older) for model_type, rows in OLDER.items() for older in rows),
    ],
    ids=str,
)
def test_absent_fields_and_older_spellings_mean_what_they_mean_in_transformers(
    model_type: str, older: dict[str, Any]
) -> None:
    from transformers import CONFIG_MAPPING

    cases = (fields for kind, fields in CASES.values() if kind == model_type)
    sizes = {**SIZES, **next(cases, {})}
    wanted = OWN_SIZES.get(model_type, SIZE_FIELDS)
    sizes = {"vocab_size": 320, **{name: sizes[name] for name in wanted}}
    if model_type == "deepseek_v2":  # of which there is no default
        sizes["num_experts_per_tok"] = 3
    given = {**sizes, **older}
    theirs = CONFIG_MAPPING[model_type](**copy.deepcopy(given)).to_dict()
    family = next(one for one in FAMILIES.values() if one.model_type == model_type)
    if theirs.get("head_dim", 0) is None:
        del theirs["head_dim"]
    config = family.to_config(given)
    assert config == family.to_config(theirs)
    assert family.to_config(family.to_hf(config)) == config


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"per_layer_config": {"1": {"rms_norm_eps": 0.1}}}, "per_layer_config is not"),
        (
            "gemma4_text",
            {"per_layer_config": {"1": {"head_dim": 8}}},
            "distinguishes layers of the same type",
        ),
        ("gemma4_text", {"per_layer_config": {"5": {"sliding_window": 8}}}, "sliding_window is"),
        ("gemma4_text", {"layer_types": [FULL] * 5 + [SLIDING]}, "ends with 'sliding_attention'"),
        ("gemma4_text", {"num_kv_shared_layers": 1}, "leaves no full_attention layer to read"),
        ("gemma4_text", {"enable_moe_block": True}, "a number for each of num_experts, top_k"),
        (
            "gemma4_text",
            {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
            | {"moe_intermediate_size": [8, 8]},
            "a number for each of num_experts, top_k_experts, moe_intermediate_size",
        ),
        ("gemma4_text", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("gemma4_text", {"vocab_size_per_layer_input": 300}, "expected at least 320"),
        ("exaone4", {"layer_types": [FULL] * 6}, "full_attention alone beside sliding_window"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm True is not supported"),
        ("lfm2", {"layer_types": ["conv"] * 5}, "layer_types has 5 entries for 6 layers"),
        ("lfm2", {"layer_types": [SLIDING] * 6}, "layer_types 'sliding_attention' is not"),
        ("qwen3_5_text", {"layer_types": ["conv"] * 6}, "layer_types 'conv' is not supported"),
        ("qwen3_5_text", {"linear_num_value_heads": 24}, "24 is not a multiple of linear_num_key"),
        ("phi", {"tie_word_embeddings": True}, "tie_word_embeddings True is not supported where"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "expected new_decoder_architecture with it"),
        (
            "falcon",
            {"new_decoder_architecture": True, "parallel_attn": False},
            "expected parallel_attn with it",
        ),
    ],
)
def test_unsupported_fields_are_refused_by_name(
    name: str, changes: dict[str, Any], said: str
) -> None:
    family = next(one for one in FAMILIES.values() if one.model_type == name)
    hf = {**SIZES, "num_hidden_layers": 6, "sliding_window": 9}
    family.to_config(hf)
    with pytest.raises(ValueError, match=said):
        family.to_config({**hf, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attn_config": {"alibi": False}}, "attn_config.alibi False is not supported"),
        ({"attn_config": {"alibi_bias_max": 16}}, "alibi_bias_max 16 is not supported; expected 8"),
        ({"attn_config": {"qk_ln": True}}, "attn_config.qk_ln True is not supported"),
        ({"attn_config": {"prefix_lm": True}}, "attn_config.prefix_lm True is not supported"),
        ({"no_bias": False}, "no_bias False is not supported"),
        ({"norm_type": "rmsnorm"}, "norm_type 'rmsnorm' is not supported"),
        ({"logit_scale": 0.5}, "logit_scale 0.5 is not supported"),
    ],
)
def test_fields_of_mpt_that_transformers_does_not_compute_are_refused(
    changes: dict[str, Any], said: str
) -> None:
    family = next(one for one in FAMILIES.values() if one.model_type == "mpt")
    family.to_config(MPT)
    with pytest.raises(ValueError, match=said):
        family.to_config({**MPT, **changes})


def test_the_first_files_of_bloom_have_other_names() -> None:
    family = next(one for one in FAMILIES.values() if one.model_type == "bloom")
    named = {"n_embed": 64, "num_attention_heads": 8, "num_hidden_layers": 3, "vocab_size": 320}
    config = family.to_config(named)
    assert (config.embed_dim, config.ffn_dim, config.num_heads, config.num_layers) == (
        64,
        256,
        8,
        3,
    )
    assert family.to_config(family.to_hf(config)) == config


def test_nemotron_h_has_as_many_layers_as_their_types() -> None:
    family = next(one for one in FAMILIES.values() if one.model_type == "nemotron_h")
    hf = {**SIZES, "hybrid_override_pattern": "M-*-"}
    del hf["num_hidden_layers"]
    assert family.to_config(hf).num_layers == 4
    assert family.to_config({**hf, "num_hidden_layers": 4}).num_layers == 4
    # transformers has an output matrix of its own whatever this says
    assert not family.to_config({**hf, "tie_word_embeddings": True}).tie_embeddings
    for count in (3, 5):
        with pytest.raises(ValueError, match=f"has 4 entries for {count} layers"):
            family.to_config({**hf, "num_hidden_layers": count})
