"""The metadata of a GGUF file as a ``config.json``: one dictionary of the fields of all families.

llama.cpp names fields after what they are, and leaves out what follows from the tensors: whether
there are biases, whether the output is tied to the embedding, how many tokens there are.
"""

from pathlib import Path

import numpy as np

from adapt_jax.decoders.rope import Rope
from adapt_jax.pretrained.gguf.architectures import ARCHITECTURES, Fields
from adapt_jax.pretrained.gguf.file import GGUFFile, read_gguf
from adapt_jax.utils.errors import UserError

__all__ = ["find_default_dtype", "read_gguf_config"]


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
    try:
        return _compute_fields(file)
    except UserError:
        raise
    except Exception as error:  # whatever types and sizes a received file may have
        reason = str(error)[:200] or type(error).__name__
        raise UserError(f"{path}: its metadata describes no decoder ({reason})") from None


def _compute_fields(file: GGUFFile) -> Fields:
    found = ARCHITECTURES[file.architecture]
    hf = {**_read_sizes(file), **_read_rope(file), **_read_tokens(file)}
    # a family reads the fields that it has, and no others
    hf |= {"architectures": [found.name], "torch_dtype": find_default_dtype(file)}
    return hf | found.adjust(file, hf)


def find_default_dtype(file: GGUFFile) -> str:
    """The dtype that weights are kept in on an accelerator: that of most bytes, or bfloat16."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.nbytes
    most = max(sizes, key=lambda kind: sizes[kind], default="F32")
    return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")


def _read_sizes(file: GGUFFile) -> Fields:
    """Widths, counts, epsilons, and what the tensors say."""
    heads = file.get_one("attention.head_count")
    width = file.get("embedding_length")
    for key, value in (("attention.head_count", heads), ("embedding_length", width)):
        if not isinstance(value, int) or value < 1:
            raise UserError(
                f"{file.path}: {file.architecture}.{key}: {value!r:.40}; expected a size"
            )
    head_dim, ffn_dim = file.get("attention.key_length"), file.get_one("feed_forward_length")
    has_latents = file.get("attention.kv_lora_rank") is not None
    if (down := file.tensors.get("blk.0.ffn_down.weight")) is not None:
        ffn_dim = down.shape[-1]  # some converters write another number, here and below
    if head_dim != file.get("attention.value_length", head_dim) and not has_latents:
        raise UserError(f"{file.path}: attention.value_length differs from attention.key_length")
    kv_heads = _count_kv_heads(file) or heads
    if (kernel := file.tensors.get("blk.0.attn_k.weight")) is not None:
        kv_heads = kernel.shape[0] // (head_dim or width // heads)
    length, layers = file.get("context_length"), file.get("block_count")
    epsilon = file.get("attention.layer_norm_epsilon")
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
        "rms_norm_eps": file.get("attention.layer_norm_rms_epsilon"),
        "layer_norm_eps": epsilon,
        "layer_norm_epsilon": epsilon,
        "norm_epsilon": epsilon,
        "norm_eps": epsilon,
        "clip_qkv": file.get("attention.clamp_kqv"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "num_local_experts": file.get("expert_count"),
        "num_experts": file.get("expert_count"),
        "num_experts_per_tok": file.get("expert_used_count"),
        "moe_intermediate_size": file.get("expert_feed_forward_length"),
        "shared_expert_intermediate_size": file.get("expert_shared_feed_forward_length"),
        "shared_intermediate_size": file.get("expert_shared_feed_forward_length"),
        "logit_scale": file.get("logit_scale"),
        "final_logit_softcapping": file.get("final_logit_softcapping"),
        "attn_logit_softcapping": file.get("attn_logit_softcapping"),
    }
    return {key: value for key, value in hf.items() if value is not None} | _read_flags(file)


def _count_kv_heads(file: GGUFFile) -> int | None:
    """The number of key/value heads, where it is given; layers without attention have none."""
    listed = file.get("attention.head_count_kv")
    if not isinstance(listed, list):
        return listed if listed is None else int(listed)
    counts = {int(count) for count in listed} - {0}
    if len(counts) > 1:
        raise UserError(
            f"{file.path}: attention.head_count_kv differs between layers, which is not supported"
        )
    return max(counts, default=None)


def _read_flags(file: GGUFFile) -> Fields:
    """What shows in which tensors there are, and the window, which may be none."""
    has_attention_bias = file.has("attn_q.bias") or file.has("attn_qkv.bias")
    return {
        "sliding_window": file.get("attention.sliding_window") or None,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": has_attention_bias,
        "attention_out_bias": file.has("attn_output.bias"),
        "use_qkv_bias": has_attention_bias,
        "use_bias": has_attention_bias,
        "mlp_bias": file.has("ffn_up.bias"),
        "bias": file.has("ffn_up.bias"),
    }


def _read_rope(file: GGUFFile) -> Fields:
    """Rotary positions in the older spelling of ``config.json``."""
    heads, width = file.get_one("attention.head_count"), file.get("embedding_length")
    head_dim = file.get("attention.key_length") or width // heads
    rotated = file.get("rope.dimension_count") or head_dim
    theta = file.get("rope.freq_base", 10000.0)
    share = rotated / head_dim
    scaling = _read_rope_scaling(file, theta, rotated)
    original = (scaling or {}).get("original_max_position_embeddings")
    return ({} if original is None else {"original_max_position_embeddings": original}) | {
        "rope_theta": theta,
        "rotary_emb_base": theta,
        "rope_local_base_freq": file.get("rope.freq_base_swa", 10000.0),
        "partial_rotary_factor": share,
        "rotary_pct": share,
        "rope_scaling": scaling,
    }


def _read_rope_scaling(file: GGUFFile, theta: float, rotated: int) -> Fields | None:
    """The rope type and what it needs; None: frequencies are as theta says."""
    if "rope_freqs.weight" in file.tensors:
        return _recognise_factors(file, theta, rotated)
    kind, factor = file.get("rope.scaling.type"), file.get("rope.scaling.factor")
    original = file.get("rope.scaling.original_context_length")
    if "rope_factors_long.weight" in file.tensors:
        scaling = {
            "rope_type": "longrope",
            "short_factor": _read_factors(file, "rope_factors_short.weight"),
            "long_factor": _read_factors(file, "rope_factors_long.weight"),
            "original_max_position_embeddings": original,
            "attention_factor": file.get("rope.scaling.attn_factor"),
        }
    elif kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "attention_factor": file.get("rope.scaling.yarn_attn_factor"),
            "beta_fast": file.get("rope.scaling.yarn_beta_fast"),
            "beta_slow": file.get("rope.scaling.yarn_beta_slow"),
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
    if 2 * len(factors) != rotated:  # before an array of that size is made
        raise UserError(
            f"{file.path}: rope_freqs.weight has {len(factors)} factors for {rotated} features"
        )
    plain = np.asarray(Rope(theta=theta).frequencies(rotated))
    for high_freq_factor in (4.0, 1.0):  # the latter in Llama 4 Scout
        params: Fields = {
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": 8192,
        }
        rope = Rope("llama3", theta, params=tuple(sorted(params.items())))
        if np.allclose(plain / factors, rope.frequencies(rotated), rtol=1e-5, atol=0):
            return {"rope_type": "llama3", **params}
    listed = factors.tolist()
    return {
        "rope_type": "longrope",
        "short_factor": listed,
        "long_factor": listed,
        "attention_factor": 1.0,
        "original_max_position_embeddings": file.get("context_length"),
    }


def _read_tokens(file: GGUFFile) -> Fields:
    """Token ids; what ends a turn also ends a text."""
    ids = {
        name: file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "eot", "eom", "padding")
    }
    ends = [ids[name] for name in ("eos", "eot", "eom") if ids[name] is not None]
    ends = list(dict.fromkeys(ends))
    return {
        "bos_token_id": ids["bos"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids["padding"],
    }
