"""Where the time of sampling goes: prefill, layers' products, attention, output matrix and so on.

python -m benchmarks.parts --decoder path/to/SmolLM2-135M [--rows 40 --prefix 900 --columns 160]

Each part of a decoding step is compiled alone, with the shapes that it has in the step, and timed.
What the step takes beyond them is "rest": norms, rotary positions, writing the cache, and handing
over between operations. The last line is JSON, in milliseconds.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from adapt_jax.decoders.attention import attend
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.sampling import compiled as steps
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.logits import get_log_probability, make_draw_keys, sample_token
from adapt_jax.sampling.types import GenerationConfig
from benchmarks.measuring import DTYPES
from benchmarks.real_decoders import load_endless, prepare_decoder
from benchmarks.roofline import best

__all__ = ["time_parts"]


def multiply_layers(decoder: Decoder, x: jax.Array) -> jax.Array:
    """The products of all layers with their weights, and nothing else of them; x is [B, 1, D]."""
    for layer in decoder.layers:
        attention = layer.attention
        queries = attention.query(x)
        narrow = [one(x) for one in (attention.key, attention.value) if one is not None]
        # keys and values are used, so that their products are computed
        queries = queries + sum((jnp.mean(one) for one in narrow), jnp.zeros((), x.dtype))
        x = layer.ffn(attention.output(queries)) * 1e-3
    return x


def attend_in_layers(
    decoder: Decoder, queries: jax.Array, prefix: list[Any] | None, cache: list[Any], length: Any
) -> jax.Array:
    """The attention of all layers over prefix and own cache; queries are [B, 1, N, H]."""
    columns = jnp.arange(cache[0][0].shape[2])
    mask = (columns <= length[:, None])[:, None]
    for index, (keys, values) in enumerate(cache):
        blocks = [] if prefix is None else [prefix[index]]
        queries = attend(queries, [*blocks, (keys, values, mask)]) * 1e-3
    return queries


def time_parts(
    folder: Path, rows: int, prefix: int, columns: int, top_k: int, dtype: str
) -> dict[str, float]:
    """Milliseconds of the prefix's prefill, of a decoding step, and of the step's parts.

    Raises:
        SystemExit: the layers are of a kind that is not timed in parts.
    """
    model = load_endless(folder, dtype)
    config = model.config
    if len({config.layer_config(n).head_dim for n in range(config.num_layers)}) > 1:
        raise SystemExit("the layers have several head sizes; their parts are not timed")
    if config.layers_with_state or config.latent_attention is not None:
        raise SystemExit("a layer has a state or latent attention; its parts are not timed")
    draws = np.random.default_rng(0).integers(3, config.vocab_size, prefix)
    sampling = GenerationConfig(temperature=0.7, top_k=top_k).sampling
    shared = Prefix((tuple(draws.tolist()),))
    engine = Engine(model, shared, GenerationConfig(temperature=0.7, top_k=top_k), seed=0)
    state = [*engine._make_slots(rows, columns)]
    graph, weights, encoded = engine.graph, engine.weights, engine.encoded_prefixes

    def decode() -> Any:
        state[0], state[1], *news = steps.decode_chunk(
            graph, sampling, (), weights, encoded, *state, engine.seed
        )
        return news

    def time_part(function: Any, *arguments: Any) -> float:
        """Seconds of a function of the decoder, which gets its weights as the step does."""
        compiled = jax.jit(lambda weights, *rest: function(nnx.merge(graph, weights), *rest))
        return best(lambda: compiled(weights, *arguments))

    def choose(_: Decoder, logits: jax.Array) -> Any:
        keys = make_draw_keys(engine.seed, which, which, counts)
        token = sample_token(logits, keys, sampling).astype(jnp.int32)
        return token, get_log_probability(logits, token)

    which, counts = jnp.arange(rows, dtype=jnp.uint32), jnp.full(rows, columns // 2, jnp.int32)
    x = jnp.ones((rows, 1, config.embed_dim), engine.dtype)
    queries = jnp.ones((rows, 1, config.num_heads, config.layer_config(0).head_dim), engine.dtype)
    logits = np.random.default_rng(1).standard_normal((rows, config.vocab_size)).astype("float32")
    encode = best(lambda: engine._encode_prefix(shared).layers)
    step = best(decode) / steps.CHUNK
    blocks = encoded.blocks(jnp.zeros(rows, jnp.int32), 1)
    parts = {
        "layers_products": time_part(multiply_layers, x),
        "attention": time_part(attend_in_layers, queries, blocks, state[0], counts),
        "output_matrix": time_part(Decoder.logits, x[:, 0]),
        "choosing": time_part(choose, jnp.asarray(logits)),
    }
    figures = {"prefix": encode, "step": step, **parts, "rest": step - sum(parts.values())}
    return {name: round(1e3 * value, 3) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", default="15M")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--prefix", type=int, default=900)
    parser.add_argument("--columns", type=int, default=160, help="of each row's own cache")
    parser.add_argument("--top-k", type=int, default=40)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, _ = prepare_decoder(options.decoder, Path(temporary))
        settings = {name: value for name, value in vars(options).items() if name != "decoder"}
        figures = time_parts(folder, **settings)
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        settings = json.loads(sys.argv[2])
        print(json.dumps(time_parts(Path(settings.pop("folder")), **settings)))
    else:
        main()
