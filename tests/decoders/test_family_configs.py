"""Every field of config.json is computed or refused."""

import copy
import json
from functools import cache, lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import CASES
from family_fields import FULL, SLIDING, sizes_of
from family_models import run, tokens
from flax import nnx

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.families import find_family
from adapt_jax.decoders.prefix import encode_prefix
from adapt_jax.pretrained.loading import abstract_decoder, get_parameters, load_pretrained
from adapt_jax.sampling.generate import generate
from adapt_jax.utils.errors import UserError

# What of config.json changes no logits: training, bookkeeping, other names of the same.
INERT = {
    *("architectures", "model_type", "transformers_version", "dtype", "use_cache", "torch_dtype"),
    *("initializer_range", "attention_dropout", "hidden_dropout", "classifier_dropout"),
    *("attn_pdrop", "embd_pdrop", "resid_pdrop", "pretraining_tp", "is_decoder"),
    *("residual_dropout", "embedding_dropout", "dropout", "layerdrop", "init_std"),
    *("resid_dropout", "embed_dropout", "attention_layers", "eod_token_id", "sep_token_id"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "reorder_and_upcast_attn", "output_router_logits"),
    *("router_aux_loss_coef", "router_jitter_noise", "no_rope_layer_interval", "ffn_dim"),
    "num_nextn_predict_layers",  # layers that are not loaded
    *("rope_type",),  # has cases of its own
    *("qk_head_dim",),  # of latent attention, the sum of two other fields
    *("num_nextn_predict_layers",),  # layers that are not loaded
    "embedding_initializer_range",
    "slow_but_exact",  # of BLOOM: rounding alone
    # of MPT: of its own code, which transformers has not
    *("attn_impl", "attn_uses_sequence_id", "init_device", "embedding_fraction"),
    *("learned_pos_emb", "emb_pdrop"),
}


# Fields that change nothing: another field decides already, or nothing depends on them.
DECIDED_ELSEWHERE = {
    "interleave_moe_layer_step",
    "max_window_layers",
    "_sliding_window_pattern",
    "sliding_window_pattern",
}


# Families with multi-head latent attention, whose heads have no size in a field of its own.
LATENT = ("minicpm3", "deepseek", "glm4_moe_lite", "youtu")


SILENT = {
    "qwen3": {"use_sliding_window"},  # layer_types decides
    "qwen3_moe": {"use_sliding_window"},  # there is no window
    "qwen3_moe, not normalized": {"intermediate_size"},  # no layer is dense
    "dots1, no groups": {"sliding_window"},  # no layer slides
    "qwen2_moe, no biases": {"use_sliding_window", "sliding_window", "intermediate_size"},
    "gemma4": {
        "vocab_size_per_layer_input",
        "use_double_wide_mlp",
    },  # no per-layer embeddings, no shared layers
    "gemma4, experts": {"vocab_size_per_layer_input", "use_double_wide_mlp"},
    "gemma4, unified": {"use_double_wide_mlp"},
    "gemma2, full": {"sliding_window"},  # no layer slides
    **dict.fromkeys(
        ("mamba", "falcon_mamba"), {"num_key_value_heads", "num_attention_heads", "expand"}
    ),
    "mamba2": {"num_key_value_heads", "intermediate_size", "num_attention_heads"},
    "nemotron_h": {
        *("attention_bias", "mamba_proj_bias", "expand"),  # there are none; the heads decide
        *("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "n_group", "topk_group"),
        *("moe_shared_expert_intermediate_size", "moe_shared_expert_overlap", "norm_topk_prob"),
        *("num_experts_per_tok", "routed_scaling_factor", "mtp_layers_block_type"),
    },
    "nemotron_h, experts": {
        *("attention_bias", "mamba_proj_bias", "expand", "n_shared_experts", "intermediate_size"),
        *("moe_shared_expert_overlap", "mtp_layers_block_type", "first_k_dense_replace"),
    },
    "falcon_h1": {"mamba_expand", "mamba_norm_before_gate"},  # mamba_d_ssm decides; there is none
    "falcon_h1, norm before the gate, biases": {"mamba_expand"},
    "falcon_h1, norm after the gate": {"mamba_expand"},
    "gemma3n": {"altup_active_idx"},  # twice 0
    "gemma3n, other streams": {"activation_sparsity_pattern"},  # twice 0
    "phimoe": {"num_experts_per_tok"},  # always two
    "phimoe, longrope": {  # the file says by what it scales, and says the length twice
        *("max_position_embeddings", "rope_parameters.original_max_position_embeddings"),
    },
    "granitemoehybrid": {"rope_parameters.rope_theta"},  # no layer has positions
    "granitemoehybrid, no experts": {
        *("intermediate_size", "num_local_experts", "num_experts_per_tok"),
    },
    "lfm2, biases": {"block_ffn_dim_multiplier", "block_multiple_of"},  # the size is given
    "cohere2": {"head_dim"},  # heads always share out the hidden size
    "falcon": {"num_kv_heads"},  # one, or as many as heads, in the older architecture
    "falcon, sequential": {"num_kv_heads"},
    "falcon, alibi": {"num_kv_heads", "rope_parameters.rope_theta"},  # no rotary positions
    "opt, norms of sums": {"_remove_final_layer_norm"},  # there is none
    "falcon, two norms": {"multi_query"},  # the newer architecture says how many
    "falcon, one norm": {"multi_query"},
    "hunyuan_v1_dense": {"rope_parameters.factor"},  # alpha decides
    "hunyuan_v1_moe": {"rope_parameters.factor"},
    **dict.fromkeys((name for name in CASES if name.startswith(LATENT)), {"head_dim"}),
    "deepseek_v2, greedy, yarn, biases": {"head_dim", "n_group", "topk_group"},
    "llama4, two experts, no norm, biases": {
        *("intermediate_size_mlp",),  # no layer is dense
        *("floor_scale", "attn_scale"),  # no query is scaled
    },
    "phi3": {"original_max_position_embeddings"},  # no LongRoPE
    "phi3, longrope": {"rope_parameters.original_max_position_embeddings"},
}


INERT |= {"chunk_size", "mamba_chunk_size", "use_mamba_kernels", "mamba_ssm_cache_dtype"}


INERT |= {"altup_coef_clip", "input_jitter_noise", "z_loss_coefficient"}  # for training


INERT |= {"use_mambapy", "use_associative_scan", "time_step_init_scheme", "time_step_scale"}


INERT |= {"time_step_rank", "time_step_min", "time_step_max", "time_step_floor"}  # for new weights


INERT |= {"rescale_prenorm_residual", "residual_in_fp32", "num_logits_to_keep"}


STATEFUL = {"conv", "linear_attention"}  # types of layers that keep a state


OTHER: dict[str, Any] = {
    "first_k_dense_replace": lambda count: count + 1,
    "moe_layers": lambda layers: [0, 1] if layers != [0, 1] else [0],
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "activation_function": lambda name: "gelu" if name == "relu" else "relu",
    "layer_types": lambda types: (
        [*types[1:], types[0]]
        if STATEFUL & {*types}
        else [FULL if name == SLIDING else SLIDING for name in types]
    ),
    "no_rope_layers": lambda layers: [1 - layer for layer in layers],
    "mlp_only_layers": lambda layers: [0] if layers != [0] else [],
    "attn_logit_softcapping": lambda cap: 1.0 if cap is None else cap / 2,
    "final_logit_softcapping": lambda cap: 1.0 if cap is None else cap / 2,
    "use_bidirectional_attention": True,
    "norm_topk_prob": lambda told: not told,
    "truncate": lambda told: not told,
    "partial_rotary_factor": lambda share: share / 2,
    "rms_norm_eps": 0.3,
    "mixer_rms_eps": 0.3,
    "norm_eps": 0.3,
    "time_step_limit": [0.001, 0.1],
    "layer_norm_eps": 0.3,
    "layer_norm_epsilon": 0.3,
    "num_experts_per_tok": lambda count: count - 1,
    "num_kv_shared_layers": lambda count: count + 1,
    "hidden_size_per_layer_input": lambda size: size + 2,
    "sliding_window": lambda window: window - 4,
    "low_freq_factor": lambda factor: factor * 2,
}


def altered(value: Any, name: str) -> Any:
    """Another value for a field of ``config.json``."""
    if name in OTHER:
        return OTHER[name](value) if callable(OTHER[name]) else OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [2 * number for number in value]
    return 2 * value


@lru_cache
def of_every_config() -> set[str]:
    """The fields that every config of transformers has."""
    from transformers import PreTrainedConfig

    return set(PreTrainedConfig().to_dict())


def fields(hf: dict[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every field of ``config.json`` that ought to change the logits."""
    found: list[tuple[str, ...]] = []
    for name, value in hf.items():
        if at and name in of_every_config():
            continue  # a config within another one is saved with all of its fields
        if isinstance(value, dict):
            found += fields(value, (*at, name))
        elif name not in INERT and (value is not None or name.endswith("capping")):
            found.append((*at, name))
    return found


@cache
def list_alterations() -> dict[str, list[tuple[str, tuple[str, ...], DecoderConfig]]]:
    """By case, each field that may be altered: its path, what of DecoderConfig then differs, which
    names what the code has to compute, and the altered config. Refused alterations are left out."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found: dict[str, list[tuple[str, tuple[str, ...], DecoderConfig]]] = {}
    for name, (model_type, given) in CASES.items():
        written = CONFIG_MAPPING[model_type](**copy.deepcopy({**sizes_of(model_type), **given}))
        hf = json.loads(written.to_json_string())
        family = find_family(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type], hf)
        unaltered = family.to_config(hf)
        found[name] = []
        for path in fields(hf):
            inner = other = copy.deepcopy(hf)
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = altered(inner[path[-1]], path[-1])
            try:
                config = family.to_config(other)
            except (ValueError, KeyError, IndexError):
                continue  # refused by name
            differ = tuple(
                one for one in vars(config) if getattr(config, one) != getattr(unaltered, one)
            )
            if differ == ("context_length",):
                continue  # how long a text may be
            kinds = {layer.rope.rope_type for layer in config.layer_configs if layer.rope}
            inner_fields = (path[-1],) if {"layer_configs", "moe"} & {*differ} else ()
            key = (*differ, *inner_fields, *(sorted(kinds) if "layer_configs" in differ else ()))
            found[name].append((".".join(path), key, config))
    return found


@cache
def choose_cases() -> dict[tuple[str, ...], str]:
    """The case in which an alteration is tried: of those that compute the same, the first."""
    chosen: dict[tuple[str, ...], str] = {}
    for name, alterations in list_alterations().items():
        for path, key, _ in alterations:
            if path not in DECIDED_ELSEWHERE | SILENT.get(name, set()):
                chosen.setdefault(key, name)
    return chosen


@pytest.mark.parametrize("name", CASES)
def test_no_field_of_the_config_can_be_altered_unnoticed(name: str, made: Any) -> None:
    silent, moved, logits = set(), set(), dict[int, np.ndarray]()
    for path, key, config in list_alterations()[name]:
        if not key:
            silent.add(path)
        elif choose_cases().get(key) == name and key not in moved:
            if moves(made(name)[2].decoder, config, logits):
                moved.add(key)
            else:
                silent.add(path)
    assert silent <= DECIDED_ELSEWHERE | SILENT.get(name, set())


def moves(decoder: Decoder, config: DecoderConfig, logits: dict[int, np.ndarray]) -> bool:
    """Whether the decoder's weights are refused by another config, or yield other logits.

    Args:
        logits: of the decoder by the length of the text, kept from field to field.
    """
    other = abstract_decoder(config)
    shapes = [{key: x.shape for key, x in get_parameters(one).items()} for one in (decoder, other)]
    if shapes[0] != shapes[1]:
        return True
    other = nnx.merge(nnx.split(other)[0], nnx.split(decoder)[1])
    limits = [layer.rope.original_max_positions for layer in config.layer_configs if layer.rope]
    for length in (40, 300) if any(limits) else (40,):
        if length not in logits:
            logits[length] = np.asarray(run(decoder, tokens(1, length), compiled=False))
        one, two = logits[length], np.asarray(run(other, tokens(1, length), compiled=False))
        if np.abs(one - two).max() > 1e-3 * np.abs(one).max():
            return True
    return False


@pytest.mark.parametrize("name", ["llama, dynamic", "phi3, longrope"])
def test_the_context_length_fixes_the_frequencies_before_any_text_is_read(
    name: str, made: Any
) -> None:
    import torch

    folder, model, ours = made(name)
    ids = tokens(1, 300)
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    with_context_length = load_pretrained(folder, context_length=300)
    # The frequencies of a beginning, a prefix and what follows are those of the whole length.
    scale = np.abs(expected).max()
    found = run(with_context_length.decoder, ids[:, :40])
    np.testing.assert_allclose(found, expected[:, :40], atol=1e-4 * scale, rtol=0)
    decoder = with_context_length.decoder
    prefix = encode_prefix(decoder, decoder.embed(jnp.asarray(ids[0, :90])))
    rest = jnp.asarray(ids[:, 90:])
    hidden, _ = decoder(
        decoder.embed(rest),
        90 + jnp.arange(210)[None],
        causal_mask(jnp.ones_like(rest)),
        prefix=prefix.blocks,
    )
    np.testing.assert_allclose(decoder.logits(hidden), expected[:, 90:], atol=1e-4 * scale, rtol=0)
    undeclared = np.asarray(run(ours.decoder, ids[:, :40]))
    assert np.abs(undeclared - expected[:, :40]).max() > 0.01 * scale
    # Padding is no part of the length: a padded prefix keeps the pretrained frequencies.
    embeddings = ours.decoder.embed(jnp.asarray(ids[0, :90]))
    padded = encode_prefix(ours.decoder, jnp.pad(embeddings, ((0, 210), (0, 0))), 90)
    for one, other in zip(
        padded.layers, encode_prefix(ours.decoder, embeddings).layers, strict=True
    ):
        np.testing.assert_allclose(one[0][:, :90], other[0], atol=1e-4)
    with pytest.raises(UserError, match="context"):
        generate(ours, ["9" * 290], max_new_tokens=20)
    with pytest.raises(UserError, match="context_length 99999"):
        load_pretrained(folder, context_length=99999)
