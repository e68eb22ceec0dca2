"""Time and memory of sampling against one number at a time: is there a cliff?

python -m benchmarks.scaling --decoder path/to/SmolLM2-135M [--dtype bfloat16] [--vary prefix]

Varied are the candidates of one question, the tokens of the prefix, the questions and, with random
decoders of 15M parameters and their embeddings, the vocabulary; the others stay at 8 candidates of
one question and 32 tokens behind a prefix of 512. Each point is a process of its own: a warm-up,
then the median of three. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import DTYPES, run_side

CURVES = {
    "candidates": (1, 4, 16, 64, 256),
    "prefix": (0, 256, 1024, 4096),
    "questions": (1, 4, 16, 64),
    "vocabulary": (8_000, 32_000, 128_000, 262_144),
}
QUESTION_TOKENS, NEW_TOKENS = 40, 32


def measure_point(folder: Path, vocab: int, dtype: str, curve: str, value: int) -> dict[str, Any]:
    """Seconds of a run, seconds of compiling, and MiB beyond the loaded decoder."""
    import numpy as np

    numbers = {"candidates": 8, "prefix": 512, "questions": 1} | {curve: value}
    draws = np.random.default_rng(1)
    settings = {
        "folder": str(folder),
        "prefix": draws.integers(3, vocab, numbers["prefix"]).tolist(),
        "questions": draws.integers(3, vocab, (numbers["questions"], QUESTION_TOKENS)).tolist(),
        "candidates": numbers["candidates"],
        "new_tokens": NEW_TOKENS,
        "temperature": 0.7,
        "top_k": 40,
        "repeats": 3,
        "dtype": dtype,
    }
    found = run_side([sys.executable, "-m", "benchmarks.sampling", "--ours"], settings)
    tokens = numbers["questions"] * numbers["candidates"] * NEW_TOKENS
    return {
        curve: value,
        "seconds": round(found["median_s"], 3),
        "compile_s": round(found["first_s"] - found["median_s"], 1),
        "peak_mib": round(found["peak_mib"]),
        "ms_a_token": round(1e3 * found["median_s"] / tokens, 2),
    }


def main() -> None:
    """Prints each point as it is measured, and all curves as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", default="15M", help="a folder, or a shape")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--vary", choices=CURVES, nargs="+", default=list(CURVES))
    options = parser.parse_args()
    from benchmarks.real_decoders import prepare_decoder
    from benchmarks.shapes import write_llama

    curves: dict[str, list[dict[str, Any]]] = {}
    for curve in options.vary:
        curves[curve] = []
        for value in CURVES[curve]:
            with tempfile.TemporaryDirectory() as temporary:
                if curve == "vocabulary":
                    folder = write_llama(Path(temporary) / "llama", "15M", vocab_size=value)
                    vocab = value
                else:
                    folder, vocab = prepare_decoder(options.decoder, Path(temporary))
                point = measure_point(folder, vocab, options.dtype, curve, value)
            curves[curve].append(point)
            print(json.dumps(point), flush=True)
    print(json.dumps(curves))


if __name__ == "__main__":
    main()
