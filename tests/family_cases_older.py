"""The cases of families from before Llama, and of those that have their layers."""

from typing import Any

from family_fields import BLOOM, GPT2, HALF_ROTATED, LLAMA3, MPT, OPT

# name -> (model type, fields beside those of sizes_of)
OLDER_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt_neo": (
        "gpt_neo",
        {**OPT, "num_layers": 2, "num_heads": 4, "window_size": 9, "intermediate_size": 48}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 6}),
    "opt": ("opt", OPT),
    "opt, without biases": (
        "opt",
        {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}
        | {"tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "opt, norms of sums": (
        "opt",
        {**OPT, "word_embed_proj_dim": 20, "do_layer_norm_before": False},
    ),
    "opt, no last norm": ("opt", {**OPT, "_remove_final_layer_norm": True}),
    "phi": ("phi", {"rope_parameters": HALF_ROTATED}),
    "phi, norms of heads": ("phi", {"rope_parameters": HALF_ROTATED, "qk_layernorm": True}),
    "falcon": ("falcon", {"ffn_hidden_size": 48}),
    "falcon, two norms": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}
        | {"tie_word_embeddings": False, "ffn_hidden_size": 48},
    ),
    "falcon, one norm": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon, sequential": (
        "falcon",
        {"parallel_attn": False, "multi_query": False, "bias": True, "rope_parameters": LLAMA3},
    ),
    "falcon, alibi": (
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "bloom": ("bloom", BLOOM),
    "mpt": ("mpt", {**MPT, "attn_config": {"clip_qkv": 0.9, "softmax_scale": 0.3}}),
    "mpt, untied": ("mpt", {**MPT, "n_heads": 4, "tie_word_embeddings": False}),
    "gpt_neox": ("gpt_neox", {"rope_parameters": HALF_ROTATED}),
    "gpt_neox, sequential": (
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "rope_parameters": HALF_ROTATED,
        },
    ),
}
