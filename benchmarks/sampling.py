"""Self-consistency against a peer: the same weights, prefix, questions and number of tokens.

python -m benchmarks.sampling --size 15M --peer transformers

Both sides run in turn, each in a process of its own: a warm-up, then the median of three. The last
line is JSON. transformers is measured in its plain form, from which the ratio is taken, and with
the prefix's cache computed once per run and reused. tunix needs benchmarks/peers/tunix.sh first.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, run_side

PEERS = ROOT / "benchmarks" / "peers"
TUNIX = PEERS / ".tunix" / "bin" / "python"


def ours(settings: dict[str, Any]) -> dict[str, float]:
    """Our side: a new engine for each run, so the prefix is encoded within the measured time."""
    from adapt_jax.decoders.prefix import Prefix
    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.sampling.engine import Engine
    from adapt_jax.sampling.types import GenerationConfig, Request
    from benchmarks.measuring import measure

    model = load_pretrained(settings["folder"])
    generation_config = GenerationConfig(
        max_new_tokens=settings["new_tokens"],
        candidates=settings["candidates"],
        temperature=settings["temperature"],
        top_k=settings["top_k"],
    )
    requests = [Request(str(i), tuple(tokens)) for i, tokens in enumerate(settings["questions"])]
    prefix = Prefix((tuple(settings["prefix"]),))

    def run(seed: int) -> None:
        found = list(Engine(model, prefix, generation_config, seed=seed).run(requests))
        assert len(found) == len(requests) * generation_config.candidates
        assert all(len(one.token_ids) == generation_config.max_new_tokens for *_, one in found)

    return measure(run, settings["repeats"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("15M", "60M"), default="15M")
    peers = ("transformers", "transformers-cached", "tunix", "none")
    parser.add_argument("--peer", choices=peers, default="transformers")
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--question-tokens", type=int, default=40)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--prefix", type=int, default=900)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-k", type=int, default=40, help="0: the whole vocabulary")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken")
    options = parser.parse_args()
    if options.peer == "tunix" and not TUNIX.exists():
        parser.error("tunix is not installed; run benchmarks/peers/tunix.sh first")

    import numpy as np

    from benchmarks.shapes import VOCAB, write_llama

    draws = np.random.default_rng(1)
    settings = vars(options) | {
        "prefix": draws.integers(3, VOCAB, options.prefix).tolist(),
        "questions": draws.integers(
            3, VOCAB, (options.questions, options.question_tokens)
        ).tolist(),
        "threads": len(os.sched_getaffinity(0)),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_llama(Path(temporary) / options.size, options.size)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
        settings["folder"] = str(folder)
        mine = run_side([sys.executable, "-m", "benchmarks.sampling", "--ours"], settings)
        result = {
            "ours_s": mine["median_s"],
            "peer_s": None,
            "ratio": None,
            "ours_compile_s": mine["first_s"] - mine["median_s"],
            "ours_peak_mib": mine["peak_mib"],
            "peer_peak_mib": None,
        }
        if options.peer != "none":
            python = str(TUNIX) if options.peer == "tunix" else sys.executable
            side = "tunix" if options.peer == "tunix" else "transformers"
            command = [python, "-m", f"benchmarks.peers.{side}_sampling"]
            peer = run_side(command, settings | {"cached": options.peer == "transformers-cached"})
            if options.peer == "transformers":
                cached = run_side(command, settings | {"cached": True})
                print(f"transformers-cached: {json.dumps(rounded(cached))}")
                print(f"ratio to transformers-cached: {cached['median_s'] / mine['median_s']:.2f}")
            result |= {
                "peer_s": peer["median_s"],
                "ratio": peer["median_s"] / mine["median_s"],
                "peer_peak_mib": peer["peak_mib"],
            }
    print(json.dumps(rounded(result)))


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(ours(json.loads(sys.argv[2]))))
    else:
        main()
