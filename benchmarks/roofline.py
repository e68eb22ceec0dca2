"""What a decoding step must compute and move, against what was reached on this machine.

python -m benchmarks.roofline --size 15M [--rows 40 --prefix 900 --columns 160]

The bound is the longer of two times: operations at the speed of one large matrix product, bytes at
the speed at which an array beyond all caches is read. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.sampling import compiled as steps
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import GenerationConfig
from benchmarks.shapes import VOCAB, write_llama


def count(
    config: DecoderConfig, rows: int, prefix: int, columns: int, itemsize: int
) -> dict[str, float]:
    """Operations and bytes of one step; weights and prefix are read once, a cache by its row."""
    wide, narrow = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.embed_dim * 2 * (wide + narrow)
    kernels = config.num_layers * (attention + 3 * config.embed_dim * config.ffn_dim)
    kernels += config.vocab_size * config.embed_dim
    mixing = 2 * config.num_layers * wide * (prefix + columns)
    cached = 2 * config.num_layers * narrow * (prefix + rows * columns)
    return {
        "gflop": 2 * rows * (kernels + mixing) / 1e9,
        "mib": (kernels + cached + rows * config.vocab_size) * itemsize / 2**20,
    }


def best(run: Callable[[], Any], repeats: int = 7) -> float:
    """Seconds of the fastest call after a first one; what it returns is waited for."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def speeds(dtype: Any) -> tuple[float, float]:
    """(GFLOP/s of a product of 2,048 x 2,048, MiB/s of reading 512 MiB)."""
    square = jnp.ones((2048, 2048), dtype)
    product = jax.jit(lambda x: x @ x)
    vector = jnp.ones(512 * 2**20 // np.dtype(dtype).itemsize, dtype).reshape(-1, 4096)
    total = jax.jit(lambda x: x.sum(axis=0))
    gflops = 2 * 2048**3 / 1e9 / best(lambda: product(square))
    return gflops, 512 / best(lambda: total(vector))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("15M", "60M"), default="15M")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--prefix", type=int, default=900)
    parser.add_argument("--columns", type=int, default=160, help="of each row's own cache")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = load_pretrained(write_llama(Path(temporary) / "llama", options.size))
    draws = np.random.default_rng(0).integers(3, VOCAB, options.prefix)
    generation_config = GenerationConfig(temperature=0.7, top_k=40)
    engine = Engine(model, Prefix((tuple(draws.tolist()),)), generation_config, seed=0)
    cache, rows = engine._make_slots(options.rows, options.columns)
    state = [cache, rows]

    def chunk() -> Any:
        state[0], state[1], *news = steps.decode_chunk(
            engine.graph,
            generation_config.sampling,
            (),
            engine.weights,
            engine.encoded_prefixes,
            *state,
            engine.seed,
        )
        return news

    step = best(chunk) / steps.CHUNK
    needed = count(
        model.config,
        options.rows,
        options.prefix,
        options.columns,
        np.dtype(engine.dtype).itemsize,
    )
    gflops, mibs = speeds(engine.dtype)
    bounds = {"compute": needed["gflop"] / gflops, "memory": needed["mib"] / mibs}
    print(
        json.dumps(
            {
                "step_ms": round(1e3 * step, 2),
                **{name: round(value, 2) for name, value in needed.items()},
                "gflops_reached": round(needed["gflop"] / step, 1),
                "gflops_of_machine": round(gflops, 1),
                "mib_s_reached": round(needed["mib"] / step),
                "mib_s_of_machine": round(mibs),
                "bound_by": max(bounds, key=lambda name: bounds[name]),
                "share_of_bound": round(max(bounds.values()) / step, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
