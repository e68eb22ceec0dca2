"""Loading a checkpoint of a billion parameters, beside transformers: seconds and memory.

    python -m benchmarks.loading             # writes 6 GB into a temporary folder
    python -m benchmarks.loading --folder F  # writes them into F once, and finds them again

Each side runs in a process of its own, with everything imported. Two times are told: until the call
returns, and until every weight was read once (transformers maps a file whose dtype is kept, and
reads it later). Memory is resident: the highest while loading, less what the weights take.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import run_side

CASES = (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"))
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor: 1,038,682,112 parameters."""
    embed, ffn = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    narrow = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (CONFIG["vocab_size"], embed),
        "model.norm.weight": (embed,),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        prompt_prefix = f"model.layers.{layer}."
        found |= {
            f"{prompt_prefix}input_layernorm.weight": (embed,),
            f"{prompt_prefix}post_attention_layernorm.weight": (embed,),
            f"{prompt_prefix}self_attn.q_proj.weight": (embed, embed),
            f"{prompt_prefix}self_attn.k_proj.weight": (narrow, embed),
            f"{prompt_prefix}self_attn.v_proj.weight": (narrow, embed),
            f"{prompt_prefix}self_attn.o_proj.weight": (embed, embed),
            f"{prompt_prefix}mlp.gate_proj.weight": (ffn, embed),
            f"{prompt_prefix}mlp.up_proj.weight": (ffn, embed),
            f"{prompt_prefix}mlp.down_proj.weight": (embed, ffn),
        }
    return found


def write(folder: Path, stored: str) -> None:
    """Writes the checkpoint with random weights, unless it stands there already."""
    import jax.numpy as jnp
    from tokenizers import Tokenizer, models

    from adapt_jax.pretrained.safetensors_io import write_tensors

    if (folder / "tokenizer.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for name, shape in shapes().items():
            draw = draws.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
            yield name, draw.astype(jnp.dtype(stored))

    write_tensors(folder / "model.safetensors", shapes(), jnp.dtype(stored), arrays())
    (folder / "config.json").write_text(json.dumps(CONFIG | {"dtype": stored}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "u"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    Tokenizer(models.WordLevel({"u": 0}, unk_token="u")).save(str(folder / "tokenizer.json"))


def resident(field: str) -> int:
    """Bytes, of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def timed(load: Any, touch: Any, width: int) -> dict[str, float]:
    """Seconds of ``load`` and of ``touch`` behind it, and the memory above the weights' own."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before, started = resident("VmRSS"), time.perf_counter()
    model = load()
    loaded = time.perf_counter()
    peak = resident("VmHWM")
    touch(model)
    weights = width * sum(math.prod(shape) for shape in shapes().values())
    return {
        "load_s": loaded - started,
        "read_s": time.perf_counter() - started,
        "above_mib": (peak - before - weights) / 2**20,
    }


def ours(folder: str, dtype: str) -> dict[str, float]:
    """This project's side."""
    from adapt_jax.utils.cpu import choose_platform

    choose_platform()
    import jax
    import jax.numpy as jnp
    from transformers import LlamaConfig, PreTrainedTokenizerFast  # noqa: F401  before the clock

    from adapt_jax.pretrained.loading import get_parameters, load_pretrained

    jnp.zeros(1).block_until_ready()

    def load() -> list[Any]:
        model = load_pretrained(folder, dtype=jnp.dtype(dtype))
        return list(jax.block_until_ready(list(get_parameters(model.decoder).values())))

    def touch(arrays: list[Any]) -> float:
        return sum(float(np.asarray(a).view(np.uint8).reshape(-1)[::64].sum()) for a in arrays)

    return timed(load, touch, jnp.dtype(dtype).itemsize)


def theirs(folder: str, dtype: str) -> dict[str, float]:
    """transformers' side; the tokenizer is part of both."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    kind = getattr(torch, dtype)

    def load() -> Any:
        AutoTokenizer.from_pretrained(folder)
        return LlamaForCausalLM.from_pretrained(folder, dtype=kind)

    def touch(model: Any) -> float:
        arrays = (p.detach().view(torch.uint8).flatten() for p in model.parameters())
        return sum(float(array[::64].sum()) for array in arrays)

    return timed(load, touch, kind.itemsize)


SIDES = {"adapt_jax": ours, "transformers": theirs}


def main() -> None:
    """Writes the checkpoints, runs both sides on each, and prints a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, help="where the checkpoints are kept")
    options.add_argument("--write-only", action="store_true")
    options.add_argument("--repeats", type=int, default=5, help="of each side, in turns")
    options.add_argument("--side", nargs=2, metavar=("NAME", "SETTINGS"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.side:
        print(json.dumps(SIDES[chosen.side[0]](**json.loads(chosen.side[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = chosen.folder or Path(temporary)
        for stored in dict.fromkeys(stored for stored, _ in CASES):
            write(root / stored, stored)
        if chosen.write_only:
            return
        print("stored -> loaded      side          load s  until read s  MiB above the weights")
        for stored, dtype in CASES:
            settings = {"folder": str((root / stored).resolve()), "dtype": dtype}
            said: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(chosen.repeats):
                for side in SIDES:
                    command = [sys.executable, "-m", "benchmarks.loading", "--side", side]
                    said[side].append(run_side(command, settings))
            for side, runs in said.items():
                load, read, above = (
                    statistics.median(run[name] for run in runs)
                    for name in ("load_s", "read_s", "above_mib")
                )
                print(
                    f"{stored:>8} -> {dtype:<8}  {side:<12} {load:7.2f} {read:13.2f} {above:12.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
