"""Self-consistency against a peer: the same weights, prefix, questions and number of tokens.

python -m benchmarks.sampling --size 15M --peer transformers
python -m benchmarks.sampling --decoder path/to/SmolLM2-135M --peer vllm

Both sides run in turn, each in a process of its own: a warm-up, then the median of three. The last
line is JSON. transformers is measured in its plain form, from which the ratio is taken, and with
the prefix's cache computed once per run and reused; vLLM with its prefix caching. tunix and vLLM
need benchmarks/peers/tunix.sh and vllm.sh first. In the end it says where our time goes.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import DTYPES, ROOT, run_side

PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = {name: PEERS / f".{name}" / "bin" / "python" for name in ("tunix", "vllm")}


def ours(settings: dict[str, Any]) -> dict[str, float]:
    """Our side: a new engine for each run, so the prefix is encoded within the measured time."""
    from adapt_jax.decoders.prefix import Prefix
    from adapt_jax.sampling.engine import Engine
    from adapt_jax.sampling.types import GenerationConfig, Request
    from benchmarks.measuring import measure
    from benchmarks.real_decoders import load_endless

    model = load_endless(settings["folder"], settings["dtype"])
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
    options = _parse_options()
    import numpy as np

    from benchmarks.real_decoders import prepare_decoder

    with tempfile.TemporaryDirectory() as temporary:
        name = options.decoder or options.size
        folder, vocab = prepare_decoder(name, Path(temporary))
        draws = np.random.default_rng(1)
        settings = vars(options) | {
            "folder": str(folder),
            "prefix": draws.integers(3, vocab, options.prefix).tolist(),
            "questions": _draw_questions(draws, vocab, options),
            "threads": len(os.sched_getaffinity(0)),
        }
        mine = run_side([sys.executable, "-m", "benchmarks.sampling", "--ours"], settings)
        result = {
            "ours_s": mine["median_s"],
            "peer_s": None,
            "ratio": None,
            "ours_compile_s": mine["first_s"] - mine["median_s"],
            "ours_peak_mib": mine["peak_mib"],
            "peer_peak_mib": None,
            "ours_process_mib": mine["process_mib"],
            "peer_process_mib": None,
        }
        if options.peer != "none":
            peer = _run_peer(options.peer, settings, mine["median_s"])
            result |= {
                "peer_s": peer["median_s"],
                "ratio": peer["median_s"] / mine["median_s"],
                "peer_peak_mib": peer["peak_mib"],
                "peer_process_mib": peer["process_mib"],
            }
        _print_parts(options, str(folder), mine["median_s"])
    print(json.dumps(rounded(result)))


def _draw_questions(draws: Any, vocab: int, options: argparse.Namespace) -> list[list[int]]:
    """Random tokens, of one length or of lengths between two."""
    least, most = options.question_tokens[0], options.question_tokens[-1]
    lengths = draws.integers(least, most + 1, options.questions)
    return [draws.integers(3, vocab, length).tolist() for length in lengths]


def _print_parts(options: argparse.Namespace, folder: str, run_s: float) -> None:
    """Prints where our time goes: the prefix, the parts of a step, and what is beyond them."""
    from adapt_jax.sampling.memory import MAX_USEFUL_SLOTS

    rows = min(options.questions * options.candidates, MAX_USEFUL_SLOTS)
    columns = -(-(options.question_tokens[-1] + options.new_tokens) // 32) * 32
    settings = {"folder": folder, "rows": rows, "prefix": options.prefix}
    settings |= {"columns": columns, "top_k": options.top_k, "dtype": options.dtype}
    parts = run_side([sys.executable, "-m", "benchmarks.parts", "--side"], settings)
    steps_s = options.new_tokens * parts["step"] / 1e3
    print(f"milliseconds of the prefix and of a step of {rows} rows: {json.dumps(parts)}")
    if rows < options.questions * options.candidates:
        return
    rest = run_s - steps_s - parts["prefix"] / 1e3
    print(f"a run: {steps_s:.2f} s of steps, {rest:.2f} s of questions, filling slots and the host")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("15M", "60M"), default="15M")
    parser.add_argument("--decoder", help="a folder, or a shape of benchmarks/real_decoders.py")
    peers = ("transformers", "transformers-cached", *ENVIRONMENTS, "none")
    parser.add_argument("--peer", choices=peers, default="transformers")
    for name, whose in (("--dtype", "ours"), ("--peer-dtype", "vLLM's")):
        help_text = f"of {whose} weights"
        parser.add_argument(name, choices=DTYPES, default="float32", help=help_text)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument(
        "--question-tokens", type=int, nargs="+", default=[40], help="of each, or least and most"
    )
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--prefix", type=int, default=900)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-k", type=int, default=40, help="0: the whole vocabulary")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken")
    options = parser.parse_args()
    if len(options.question_tokens) > 1 and options.peer not in ("vllm", "none"):
        parser.error(f"{options.peer} is asked questions of one length alone")
    if options.peer in ENVIRONMENTS and not ENVIRONMENTS[options.peer].exists():
        parser.error(
            f"{options.peer} is not installed; run benchmarks/peers/{options.peer}.sh first"
        )
    return options


def _run_peer(peer: str, settings: dict[str, Any], ours_s: float) -> dict[str, float]:
    """The figures of a peer; of transformers the plain form's, and the other form is printed."""
    side = peer.removesuffix("-cached")
    command = [
        str(ENVIRONMENTS.get(side, sys.executable)),
        "-m",
        f"benchmarks.peers.{side}_sampling",
    ]
    figures = run_side(command, settings | {"cached": peer == "transformers-cached"})
    if peer == "transformers":
        cached = run_side(command, settings | {"cached": True})
        print(f"transformers-cached: {json.dumps(rounded(cached))}")
        print(f"ratio to transformers-cached: {cached['median_s'] / ours_s:.2f}")
    return figures


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(ours(json.loads(sys.argv[2]))))
    else:
        main()
