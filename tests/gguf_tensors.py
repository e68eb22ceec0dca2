"""The tensors of a checkpoint as llama.cpp's converter has them."""

import re
from typing import Any

import numpy as np

__all__ = ["HEADS", "WIDTHS", "convert", "count_kv_heads", "take_first"]

WIDTHS, HEADS = ("hidden_size", "n_embd", "d_model"), ("num_attention_heads", "n_head", "n_heads")
PAIRED = ("llama", "granitemoe", "mistral3", "smollm3", "granite", "olmo", "arcee")


def take_first(hf: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that is given."""
    return next((hf[name] for name in names if hf.get(name)), None)


def convert(state: dict[str, np.ndarray], hf: dict[str, Any], arch: str) -> dict[str, np.ndarray]:
    """The tensors as llama.cpp has them, under the names of the checkpoint."""
    made: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, array in state.items():
        if hf.get("tie_word_embeddings") and name == "lm_head.weight":
            continue
        if match := re.fullmatch(r"(.*)\.experts\.(\d+)\.(.*)", name):
            place = match[1].removeprefix("model.").replace("block_sparse_moe", "feed_forward")
            place = place if "block_sparse_moe" in match[1] else match[1]
            stacks.setdefault(f"{place}.experts.{match[3]}", {})[int(match[2])] = array
            continue
        if arch in PAIRED and re.search(r"\.[qk]_proj\.", name):
            heads = hf["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            halves = array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if arch.startswith(("gemma", "nemotron")) and name.endswith("norm.weight"):
            array = array + 1
        if (changed := _convert_delta_net(name, array, hf, arch)) is not None:
            made |= changed
            continue
        if arch.startswith(("qwen3next", "qwen35")) and name.endswith("norm.weight"):
            array = array + 1
        if name.endswith("conv.conv.weight"):
            array = array[:, 0]
        if name.endswith("kv_b_proj.weight"):
            made |= _divide_latents(name, array, hf)
            continue
        if arch == "gpt2" and re.search(r"\.c_(attn|proj|fc)\.weight", name):
            array = array.T
        if "query_key_value" in name:
            array = _take_apart(array, hf)
        made[name] = array
        if parts := _split_experts(name, array, arch):
            del made[name]
            made |= parts
    for name, experts in stacks.items():
        made[name] = np.stack([experts[number] for number in sorted(experts)])
    rope = hf.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        made["rope_freqs.weight"] = _compute_factors(rope, hf)
    for length in ("long", "short"):
        if factors := rope.get(f"{length}_factor"):
            made[f"rope_factors_{length}.weight"] = np.array(factors, np.float32)
    return made


def _divide_latents(name: str, array: np.ndarray, hf: dict[str, Any]) -> dict[str, np.ndarray]:
    """Keys, turned, and values of each head."""
    by_head = array.reshape(hf["num_attention_heads"], -1, array.shape[-1])
    keys, values = np.split(by_head, [hf["qk_nope_head_dim"]], axis=1)
    return {
        name.replace("kv_b_proj", "k_b_proj"): keys.swapaxes(1, 2),
        name.replace("kv_b_proj", "v_b_proj"): values,
    }


def _convert_delta_net(
    name: str, array: np.ndarray, hf: dict[str, Any], arch: str
) -> dict[str, np.ndarray] | None:
    """The tensors of a delta net; None for another tensor."""
    if ".linear_attn." not in name:
        return None
    layer, part = name.split(".")[2], name.split(".linear_attn.")[1]
    key_heads, value_heads = hf["linear_num_key_heads"], hf["linear_num_value_heads"]
    key_dim, value_dim = hf["linear_key_head_dim"], hf["linear_value_head_dim"]
    shared_by = value_heads // key_heads
    if part == "conv1d.weight":
        array = array[:, 0]
    if part == "A_log":
        array = -np.exp(array)
    if part == "in_proj_qkvz.weight":
        by_head = array.reshape(key_heads, -1, array.shape[-1])
        ends = np.cumsum([key_dim, key_dim, shared_by * value_dim])
        q, k, v, z = (one.reshape(-1, array.shape[-1]) for one in np.split(by_head, ends, axis=1))
        return {
            f"blk.{layer}.attn_qkv.weight": np.concatenate([q, k, v]),
            f"blk.{layer}.attn_gate.weight": z,
        }
    if arch == "qwen3next":
        return {name: array}

    def tile(values: np.ndarray, axis: int = 0) -> np.ndarray:
        moved = np.moveaxis(values, axis, 0)
        by_head = moved.reshape(key_heads, shared_by, -1, *moved.shape[1:])
        return np.moveaxis(by_head.swapaxes(0, 1).reshape(moved.shape), 0, axis)

    if part.startswith(("in_proj_qkv", "conv1d")):
        keys, values = np.split(array, [2 * key_dim * key_heads])
        return {name: np.concatenate([keys, tile(values)])}
    if part.startswith("norm"):
        return {name: array}
    return {name: tile(array, 1 if part.startswith("out_proj") else 0)}


def _split_experts(name: str, array: np.ndarray, arch: str) -> dict[str, np.ndarray]:
    """What llama.cpp keeps of the fused experts of a layer; empty for another tensor."""
    if not (match := re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)):
        return {}
    layer, rest = match[1], match[2]
    if arch in ("llama4", "qwen35moe") and "experts." in rest:
        outputs = array.swapaxes(1, 2) if arch == "llama4" else array
        if "down_proj" in rest:
            return {f"blk.{layer}.ffn_down_exps.weight": outputs}
        gate, up = np.split(outputs, 2, axis=1)
        return {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
    place = f"blk.{layer}.ffn_"
    if rest.startswith("self_attn.sinks"):
        return {f"blk.{layer}.attn_sinks.weight": array}
    if arch == "gpt-oss" and "experts." in rest:
        end = "bias" if rest.endswith("_bias") else "weight"
        outputs = array if end == "bias" else array.swapaxes(1, 2)
        if "down_proj" in rest:
            return {f"{place}down_exps.{end}": outputs}
        both = {"gate": outputs[:, ::2], "up": outputs[:, 1::2]}
        return {f"{place}{part}_exps.{end}": half for part, half in both.items()}
    if rest.endswith("input_linear.weight"):
        kind, axis = ("shexp", 0) if "shared" in rest else ("exps", 1)
        gate, up = np.split(array, 2, axis=axis)
        return {f"{place}gate_{kind}.weight": gate, f"{place}up_{kind}.weight": up}
    if rest.endswith("output_linear.weight"):
        return {f"{place}down_{'shexp' if 'shared' in rest else 'exps'}.weight": array}
    return {}


def count_kv_heads(hf: dict[str, Any]) -> int | None:
    """Those of Falcon depend on its architecture."""
    if hf["model_type"] != "falcon" or hf.get("new_decoder_architecture"):
        return hf.get("num_key_value_heads") or hf.get("num_kv_heads")
    return 1 if hf.get("multi_query", True) else int(hf["num_attention_heads"])


def _take_apart(array: np.ndarray, hf: dict[str, Any]) -> np.ndarray:
    """Queries, keys and values of each group as those of all groups."""
    heads = take_first(hf, HEADS)
    groups = heads if hf["model_type"] in ("gpt_neox", "bloom") else count_kv_heads(hf)
    head_dim = hf["hidden_size"] // heads
    by_group = array.reshape(groups, -1, head_dim, *array.shape[1:])
    parts = by_group[:, :-2], by_group[:, -2:-1], by_group[:, -1:]
    return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])


def _compute_factors(rope: dict[str, Any], hf: dict[str, Any]) -> np.ndarray:
    """By how much Llama 3.1 divides the frequency of each pair."""
    size = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    frequencies = rope["rope_theta"] ** -(np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
