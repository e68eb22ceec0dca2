"""The metadata of a GGUF file as a ``config.json``: one dictionary of the fields of all families.

llama.cpp names fields after what they are, and leaves out what follows from the tensors: whether
there are biases, whether the output is tied to the embedding, how many tokens there are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapt_jax.decoders.rope import Rope
from adapt_jax.pretrained.gguf.file import GGUFFile, read_gguf
from adapt_jax.utils.errors import UserError

__all__ = ["ARCHITECTURES", "find_kept_dtype", "read_gguf_config"]

Fields = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """What is special in an architecture of llama.cpp.

    Attributes:
        name: the architecture that ``config.json`` names, one of FAMILIES.
        pairs_features: whether the rows of query and key kernels are reordered within each head,
            so that the two features of a rotated pair are neighbours.
        adjust: the fields that are computed in its own way.
    """

    name: str
    pairs_features: bool = False
    adjust: Callable[[GGUFFile, Fields], Fields] = lambda file, hf: {}


def read_gguf_config(path: Path) -> Fields:
    """What ``config.json`` would say of the decoder in a GGUF file.

    Raises:
        UserError: the file is damaged, of an architecture that is not supported, or no decoder.
    """
    file = read_gguf(path)
    if file.architecture not in ARCHITECTURES:
        raise UserError(
            f"{path}: architecture {file.architecture[:80]!r} is not supported in GGUF; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    if "token_embd.weight" not in file.tensors:
        raise UserError(f"{path}: holds no decoder (token_embd.weight is not there)")
    found = ARCHITECTURES[file.architecture]
    hf = {**_read_sizes(file), **_read_rope(file), **_read_tokens(file)}
    # transformers refuses other fields than its own; here a family reads only those it has
    hf |= {"architectures": [found.name], "torch_dtype": find_kept_dtype(file)}
    return hf | found.adjust(file, hf)


def find_kept_dtype(file: GGUFFile) -> str:
    """The dtype that weights are kept in on an accelerator: that of most bytes, or bfloat16."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.nbytes
    most = max(sizes, key=lambda kind: sizes[kind], default="F32")
    return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")


def _get(file: GGUFFile, key: str, default: Any = None) -> Any:
    """A value of the architecture's own metadata."""
    return file.metadata.get(f"{file.architecture}.{key}", default)


def _get_one(file: GGUFFile, key: str) -> Any:
    """A value that may be listed for each layer, where it is the same in all of them."""
    value = _get(file, key)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise UserError(f"{file.path}: {key} differs between layers, which is not supported")
    return value[0]


def _has(file: GGUFFile, name: str) -> bool:
    """Whether the first layer has a tensor of this name."""
    return f"blk.0.{name}" in file.tensors


def _read_sizes(file: GGUFFile) -> Fields:
    """Widths, counts, epsilons, and what the tensors say."""
    heads = _get_one(file, "attention.head_count")
    width = _get(file, "embedding_length")
    for key, value in (("attention.head_count", heads), ("embedding_length", width)):
        if not isinstance(value, int) or value < 1:
            raise UserError(
                f"{file.path}: {file.architecture}.{key}: {value!r:.40}; expected a size"
            )
    head_dim, ffn_dim = _get(file, "attention.key_length"), _get_one(file, "feed_forward_length")
    if (down := file.tensors.get("blk.0.ffn_down.weight")) is not None:
        ffn_dim = down.shape[-1]  # some converters write another number, here and below
    if head_dim != _get(file, "attention.value_length", head_dim):
        raise UserError(f"{file.path}: attention.value_length differs from attention.key_length")
    kv_heads = _get_one(file, "attention.head_count_kv") or heads
    if (key := file.tensors.get("blk.0.attn_k.weight")) is not None:
        kv_heads = key.shape[0] // (head_dim or width // heads)
    length, layers = _get(file, "context_length"), _get(file, "block_count")
    epsilon = _get(file, "attention.layer_norm_epsilon")
    hf = {
        "hidden_size": width,
        "n_embd": width,
        "num_attention_heads": heads,
        "n_head": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or width // heads,
        "intermediate_size": ffn_dim,
        "n_inner": ffn_dim,
        "num_hidden_layers": layers,
        "n_layer": layers,
        "max_position_embeddings": length,
        "n_positions": length,
        "rms_norm_eps": _get(file, "attention.layer_norm_rms_epsilon"),
        "layer_norm_eps": epsilon,
        "layer_norm_epsilon": epsilon,
        "norm_epsilon": epsilon,
        "norm_eps": epsilon,
        "clip_qkv": _get(file, "attention.clamp_kqv"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "num_local_experts": _get(file, "expert_count"),
        "num_experts": _get(file, "expert_count"),
        "num_experts_per_tok": _get(file, "expert_used_count"),
        "moe_intermediate_size": _get(file, "expert_feed_forward_length"),
        "shared_expert_intermediate_size": _get(file, "expert_shared_feed_forward_length"),
        "shared_intermediate_size": _get(file, "expert_shared_feed_forward_length"),
        "logit_scale": _get(file, "logit_scale"),
        "final_logit_softcapping": _get(file, "final_logit_softcapping"),
        "attn_logit_softcapping": _get(file, "attn_logit_softcapping"),
    }
    has_attention_bias = _has(file, "attn_q.bias") or _has(file, "attn_qkv.bias")
    return {key: value for key, value in hf.items() if value is not None} | {
        "sliding_window": _get(file, "attention.sliding_window") or None,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": has_attention_bias,
        "attention_out_bias": _has(file, "attn_output.bias"),
        "use_qkv_bias": has_attention_bias,
        "use_bias": has_attention_bias,
        "mlp_bias": _has(file, "ffn_up.bias"),
        "bias": _has(file, "ffn_up.bias"),
    }


def _read_rope(file: GGUFFile) -> Fields:
    """Rotary positions in the older spelling of ``config.json``."""
    heads, width = _get_one(file, "attention.head_count"), _get(file, "embedding_length")
    head_dim = _get(file, "attention.key_length") or width // heads
    rotated = _get(file, "rope.dimension_count") or head_dim
    theta = _get(file, "rope.freq_base", 10000.0)
    share = rotated / head_dim
    scaling = _read_rope_scaling(file, theta, rotated)
    original = (scaling or {}).get("original_max_position_embeddings")
    return ({} if original is None else {"original_max_position_embeddings": original}) | {
        "rope_theta": theta,
        "rotary_emb_base": theta,
        "rope_local_base_freq": _get(file, "rope.freq_base_swa", 10000.0),
        "partial_rotary_factor": share,
        "rotary_pct": share,
        "rope_scaling": scaling,
    }


def _read_rope_scaling(file: GGUFFile, theta: float, rotated: int) -> Fields | None:
    """The rope type and what it needs; None: frequencies are as theta says."""
    if "rope_freqs.weight" in file.tensors:
        return _recognise_factors(file, theta, rotated)
    kind, factor = _get(file, "rope.scaling.type"), _get(file, "rope.scaling.factor")
    original = _get(file, "rope.scaling.original_context_length")
    if "rope_factors_long.weight" in file.tensors:
        scaling = {
            "rope_type": "longrope",
            "short_factor": _read_factors(file, "rope_factors_short.weight"),
            "long_factor": _read_factors(file, "rope_factors_long.weight"),
            "original_max_position_embeddings": original,
            "attention_factor": _get(file, "rope.scaling.attn_factor"),
        }
    elif kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "attention_factor": _get(file, "rope.scaling.yarn_attn_factor"),
            "beta_fast": _get(file, "rope.scaling.yarn_beta_fast"),
            "beta_slow": _get(file, "rope.scaling.yarn_beta_slow"),
        }
    elif kind == "linear" and factor not in (None, 1.0):
        scaling = {"rope_type": "linear", "factor": factor}
    elif kind in (None, "none", "linear", "longrope"):
        return None
    else:
        raise UserError(f"{file.path}: rope.scaling.type {kind!r:.40} is not supported")
    return {name: value for name, value in scaling.items() if value is not None}


def _read_factors(file: GGUFFile, name: str) -> list[float]:
    """A small tensor of float32."""
    if name not in file.tensors:
        raise UserError(f"{file.path}: {name} is missing")
    tensor = file.tensors[name]
    if tensor.kind != "F32" or len(tensor.shape) != 1:
        raise UserError(f"{file.path}: {name} is {tensor.kind} {tensor.shape}; expected F32")
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.start)
        found = np.frombuffer(opened.read(tensor.nbytes), np.float32)
    if found.shape != tensor.shape or not (np.isfinite(found).all() and (found > 0).all()):
        raise UserError(f"{file.path}: {name}: expected {tensor.shape[0]} factors above zero")
    return [float(str(factor)) for factor in found]


def _recognise_factors(file: GGUFFile, theta: float, rotated: int) -> Fields:
    """Llama 3's stretched frequencies, of which llama.cpp keeps only a factor for each pair.

    Where no known setting gives these factors, they are kept as they are: as LongRoPE with the
    same factors for short and long texts.
    """
    factors = np.asarray(_read_factors(file, "rope_freqs.weight"), np.float32)
    plain = np.asarray(Rope(theta=theta).frequencies(rotated))
    if factors.shape != plain.shape:
        raise UserError(
            f"{file.path}: rope_freqs.weight has {len(factors)} factors; expected {len(plain)}"
        )
    scaling: Fields = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    params = tuple(sorted((name, value) for name, value in scaling.items() if name != "rope_type"))
    stretched = np.asarray(Rope("llama3", theta, params=params).frequencies(rotated))
    if np.allclose(plain / factors, stretched, rtol=1e-5, atol=0):
        return scaling
    listed = factors.tolist()
    return {
        "rope_type": "longrope",
        "short_factor": listed,
        "long_factor": listed,
        "attention_factor": 1.0,
        "original_max_position_embeddings": _get(file, "context_length"),
    }


def _read_tokens(file: GGUFFile) -> Fields:
    """Token ids; what ends a turn also ends a text."""
    said = {
        name: file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "eot", "eom", "padding")
    }
    ends = [said[name] for name in ("eos", "eot", "eom") if said[name] is not None]
    ends = list(dict.fromkeys(ends))
    return {
        "bos_token_id": said["bos"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": said["padding"],
    }


def _adjust_llama(file: GGUFFile, hf: Fields) -> Fields:
    """Mixtral is a Llama with experts; Mistral a Llama, and here it is one too."""
    return {"architectures": ["MixtralForCausalLM"]} if hf.get("num_local_experts") else {}


def _adjust_gemma2(file: GGUFFile, hf: Fields) -> Fields:
    """Queries of the largest decoder are scaled by the width over the heads, of others by 256."""
    scale = hf["hidden_size"] // hf["num_attention_heads"] if hf["num_hidden_layers"] == 46 else 256
    return {"query_pre_attn_scalar": scale}


def _adjust_gemma3(file: GGUFFile, hf: Fields) -> Fields:
    """As Gemma 2; every sixth layer is full, where layers slide at all."""
    scale = hf["hidden_size"] // hf["num_attention_heads"] if hf["num_hidden_layers"] == 62 else 256
    pattern = 1 if hf["sliding_window"] is None else 6
    return {"query_pre_attn_scalar": scale, "sliding_window_pattern": pattern} | (
        {"sliding_window": 4096} if pattern == 1 else {}
    )


def _adjust_stablelm(file: GGUFFile, hf: Fields) -> Fields:
    """Parallel residuals share their norm, so the second one is not there."""
    return {"use_parallel_residual": not _has(file, "ffn_norm.weight")}


def _adjust_gptneox(file: GGUFFile, hf: Fields) -> Fields:
    return {"use_parallel_residual": bool(_get(file, "use_parallel_residual", True))}


def _adjust_falcon(file: GGUFFile, hf: Fields) -> Fields:
    """A second norm is in the newer architecture alone."""
    heads, kv_heads = hf["num_attention_heads"], hf["num_key_value_heads"]
    has_two_norms = _has(file, "attn_norm_2.weight")
    return {
        "new_decoder_architecture": has_two_norms or kv_heads not in (1, heads),
        "num_ln_in_parallel_attn": 2 if has_two_norms else None,
        "multi_query": kv_heads == 1,
        "num_kv_heads": kv_heads,
        "ffn_hidden_size": hf["intermediate_size"],
    }


def _adjust_gpt_oss(file: GGUFFile, hf: Fields) -> Fields:
    """The range of pairs that YaRN blends is not rounded to whole pairs."""
    width = _get(file, "expert_feed_forward_length") or hf["intermediate_size"]
    return {"rope_scaling": {**(hf["rope_scaling"] or {}), "truncate": False}} | (
        {"intermediate_size": width}
    )


def _adjust_granitemoe(file: GGUFFile, hf: Fields) -> Fields:
    """With a shared expert it is another architecture."""
    has_shared = _has(file, "ffn_up_shexp.weight")
    name = "GraniteMoeSharedForCausalLM" if has_shared else "GraniteMoeForCausalLM"
    return {"architectures": [name]} | _adjust_granite(file, hf)


def _list_layer_types(file: GGUFFile, hf: Fields) -> Fields:
    """The layers that slide, where the metadata lists them."""
    pattern = _get(file, "attention.sliding_window_pattern")
    if not isinstance(pattern, list):
        return {}
    names = ("full_attention", "sliding_attention")
    return {"layer_types": [names[bool(one)] for one in pattern]}


def _adjust_olmo2(file: GGUFFile, hf: Fields) -> Fields:
    """OLMo 3 is OLMo 2 with sliding layers; its full layers alone scale their positions."""
    if hf["sliding_window"] is None:
        return {}
    theta = hf["rope_theta"]
    sliding = {"rope_theta": _get(file, "rope.freq_base_swa", theta)}
    ropes = {"full_attention": {"rope_theta": theta}, "sliding_attention": sliding}
    return {
        "architectures": ["Olmo3ForCausalLM"],
        "rope_parameters": ropes,
        **_list_layer_types(file, hf),
    }


def _adjust_granite(file: GGUFFile, hf: Fields) -> Fields:
    """Four multipliers, each with a name of its own in both worlds."""
    return {
        "attention_multiplier": _get(file, "attention.scale", 1.0),
        "embedding_multiplier": _get(file, "embedding_scale", 1.0),
        "residual_multiplier": _get(file, "residual_scale", 1.0),
        "logits_scaling": _get(file, "logit_scale", 1.0),
    }


def _adjust_mistral3(file: GGUFFile, hf: Fields) -> Fields:
    """Ministral 3 scales queries by position; without that it is Mistral."""
    beta = _get(file, "attention.temperature_scale")
    if not beta:
        return {}
    scale = {"mscale": 1.0, "mscale_all_dim": _get(file, "rope.scaling.yarn_log_multiplier", 1.0)}
    rope = {**(hf["rope_scaling"] or {}), **scale, "llama_4_scaling_beta": beta}
    return {"architectures": ["Ministral3ForCausalLM"], "rope_scaling": rope}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", True, _adjust_llama),
    "mistral3": Architecture("MistralForCausalLM", True, _adjust_mistral3),
    "qwen2": Architecture("Qwen2ForCausalLM"),
    "qwen3": Architecture("Qwen3ForCausalLM"),
    "qwen3moe": Architecture(
        "Qwen3MoeForCausalLM", adjust=lambda file, hf: {"norm_topk_prob": True}
    ),
    "qwen2moe": Architecture(
        "Qwen2MoeForCausalLM", adjust=lambda file, hf: {"norm_topk_prob": False}
    ),
    "olmoe": Architecture("OlmoeForCausalLM", adjust=lambda file, hf: {"norm_topk_prob": False}),
    "gpt-oss": Architecture("GptOssForCausalLM", adjust=_adjust_gpt_oss),
    "granitemoe": Architecture("GraniteMoeForCausalLM", True, _adjust_granitemoe),
    "gemma": Architecture("GemmaForCausalLM"),
    "gemma2": Architecture("Gemma2ForCausalLM", adjust=_adjust_gemma2),
    "gemma3": Architecture("Gemma3ForCausalLM", adjust=_adjust_gemma3),
    "phi3": Architecture("Phi3ForCausalLM"),
    "starcoder2": Architecture("Starcoder2ForCausalLM"),
    "gpt2": Architecture("GPT2LMHeadModel"),
    "gptneox": Architecture("GPTNeoXForCausalLM", adjust=_adjust_gptneox),
    "stablelm": Architecture("StableLmForCausalLM", adjust=_adjust_stablelm),
    "olmo2": Architecture("Olmo2ForCausalLM", adjust=_adjust_olmo2),
    "smollm3": Architecture("SmolLM3ForCausalLM", True),
    "granite": Architecture("GraniteForCausalLM", True, _adjust_granite),
    "glm4": Architecture("Glm4ForCausalLM"),
    "exaone4": Architecture("Exaone4ForCausalLM", adjust=_list_layer_types),
    "cohere2": Architecture("Cohere2ForCausalLM"),
    "seed_oss": Architecture("SeedOssForCausalLM"),
    "phi2": Architecture("PhiForCausalLM"),
    "falcon": Architecture("FalconForCausalLM", adjust=_adjust_falcon),
    "command-r": Architecture(
        "CohereForCausalLM",
        adjust=lambda file, hf: {"use_qk_norm": _has(file, "attn_q_norm.weight")},
    ),
    "nemotron": Architecture("NemotronForCausalLM"),
    "olmo": Architecture("OlmoForCausalLM", True),
    "arcee": Architecture("ArceeForCausalLM", True),
    "ernie4_5": Architecture("Ernie4_5ForCausalLM"),
    "hunyuan-dense": Architecture("HunYuanDenseV1ForCausalLM"),
}
