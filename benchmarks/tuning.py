"""A training step against the peer's, on the same examples and the same weights.

    python -m benchmarks.tuning --method prompt_tuning --size 15M --peer peft
    python -m benchmarks.tuning --method lora --decoder path/to/SmolLM2-135M --examples 16

Each side is a process of its own; they take two steps in turn, and the last line is JSON: seconds
of the second of two (forward, backward, update; median of three after two to warm up), their
ratio, the seconds until the first step was done, and the resident memory at its highest minus that
after loading, in MiB.
tunix needs benchmarks/peers/tunix.sh first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import ROOT
from benchmarks.real_decoders import prepare_decoder
from benchmarks.shapes import SIZES, VOCAB

METHODS = ("prompt_tuning", "lora", "fine_tuning")
PEERS = {
    "peft": ("prompt_tuning", "lora"),
    "peft-compiled": ("prompt_tuning", "lora"),
    "transformers": ("fine_tuning",),
    "transformers-compiled": ("fine_tuning",),
    "tunix": ("lora", "fine_tuning"),
}
TUNIX = ROOT / "benchmarks" / "peers" / ".tunix" / "bin" / "python"
EXAMPLES_FILE = "examples.json"
EXAMPLES, MEAN, SOFT, RANK = 32, 141, 100, 16
RATE = {"prompt_tuning": 1e-2, "lora": 1e-3, "fine_tuning": 1e-5}
Step = Callable[[], float]  # one step of training; its loss


def make_examples(
    seed: int = 0, count: int = EXAMPLES, vocab: int = VOCAB
) -> list[tuple[list[int], int]]:
    """(tokens, first target) of each example: log-normal lengths, 141 tokens in the mean.

    The second half of each is targets.
    """
    draws = np.random.default_rng(seed)
    raw = draws.lognormal(0.0, 0.5, count)
    lengths = np.maximum(np.round(raw / raw.sum() * count * MEAN).astype(int), 16)
    lengths[lengths.argmax()] += count * MEAN - lengths.sum()
    return [(draws.integers(3, vocab, size).tolist(), size // 2) for size in lengths.tolist()]


def write_examples(folder: Path, examples: list[tuple[list[int], int]]) -> None:
    """Writes examples beside a decoder's folder, for ``read_examples`` of both sides."""
    (folder.parent / EXAMPLES_FILE).write_text(json.dumps(examples))


def read_examples(folder: Path) -> list[tuple[list[int], int]]:
    """The examples beside a decoder's folder."""
    found = json.loads((folder.parent / EXAMPLES_FILE).read_text())
    return [(tokens, first) for tokens, first in found]


def start(method: str, folder: Path, dtype: Any = None) -> tuple[Any, Any]:
    """What a method trains, and the filter that says which part of it; ``dtype`` of the weights."""
    import jax.numpy as jnp
    from flax import nnx

    from adapt_jax.decoders.prefix import SoftPrompt
    from adapt_jax.methods.lora import attach_lora
    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.training.tuned_decoder import TunedDecoder

    decoder = load_pretrained(folder, dtype=dtype).decoder
    soft_prompt, chosen = None, nnx.Param
    if method == "prompt_tuning":
        soft_prompt = SoftPrompt(decoder.embed(jnp.arange(3, 3 + SOFT)))
        chosen = nnx.PathContains("soft_prompt")
    if method == "lora":
        attach_lora(decoder, "all", RANK, 2.0, nnx.Rngs(0))
        chosen = nnx.PathContains("lora")
    return TunedDecoder(decoder, soft_prompt), chosen


def ours(method: str, folder: Path) -> Step:
    """A training step of this project, as its trainer makes it."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from adapt_jax.training.batches import Batches
    from adapt_jax.training.config import TrainingConfig, choose_num_microbatches
    from adapt_jax.training.optimizers import make_optimizer
    from adapt_jax.training.packing import TrainingExample
    from adapt_jax.training.step import TrainState, make_step

    model, chosen = start(method, folder)
    config = TrainingConfig(learning_rate=RATE[method], schedule="constant", warmup_steps=0)
    examples = [
        TrainingExample(str(number), tuple(tokens), start)
        for number, (tokens, start) in enumerate(read_examples(folder))
    ]
    batches = Batches(
        examples,
        len(examples),
        config.steps,
        seed=0,
        num_microbatches=choose_num_microbatches(config, None),
    )
    graph, trainable, frozen = nnx.split(model, chosen, ...)
    update = make_optimizer(config)
    state = TrainState(trainable, update.init(trainable))
    step, prompt_prefix = make_step(graph, update, config), jnp.zeros(0, jnp.int32)
    print(f"packed into {batches.num_microbatches} x {batches.shape}", file=sys.stderr)

    def run() -> float:
        nonlocal state
        state, measured = step(state, frozen, jax.device_put(next(batches)), prompt_prefix)
        return float(jax.block_until_ready((state, measured))[1]["loss"])

    return run


def peer(method: str, folder: Path, *, compiled: bool = False) -> Step:
    """The step of a user of transformers and PEFT: padded on the right to the longest.

    Args:
        compiled: whether torch.compile compiles the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if method != "fine_tuning":
        import peft

        settings = {
            "prompt_tuning": peft.PromptTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=SOFT
            ),
            "lora": peft.LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
            ),
        }
        model = peft.get_peft_model(model, settings[method])
    model.train()
    if compiled:
        model = torch.compile(model)
    rate = RATE[method]
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = torch.optim.AdamW(chosen, lr=rate)
    examples = read_examples(folder)
    width = max(len(tokens) for tokens, _ in examples)
    ids, mask = torch.zeros((2, len(examples), width), dtype=torch.long)
    labels = torch.full((len(examples), width), -100)
    for row, (tokens, start) in enumerate(examples):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
    print(f"padded to {tuple(ids.shape)}", file=sys.stderr)

    def run() -> float:
        update.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        update.step()
        return float(loss.detach())

    return run


def resident(key: str) -> float:
    """Resident memory of this process in MiB: now (VmRSS) or at its highest (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def serve(side: Callable[[str, Path], Step], method: str, folder: Path) -> None:
    """Makes one side ready, then answers each line read with a step: JSON a line."""
    step = side(method, folder)
    loaded = resident("VmRSS")
    print(json.dumps({"loaded_mib": loaded}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        loss = step()
        told = {"s": time.perf_counter() - began, "loss": loss, "mib": resident("VmHWM") - loaded}
        print(json.dumps(told), flush=True)


class Side:
    """One side in its own process: of SIDES, or ``tunix``, which has its own Python.

    Or what ``command`` starts, which is told method and folder in the same way.
    """

    def __init__(self, side: str, method: str, folder: Path, command: list[str] | None = None):
        command = command or [sys.executable, "-m", "benchmarks.tuning", "--serve", side]
        command += ["--method", method, "--folder", str(folder)]
        if side == "tunix":
            command = [str(TUNIX), "-m", "benchmarks.peers.tunix_tuning", method, str(folder)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.read()

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with code {self.process.wait()}")
        found: dict[str, float] = json.loads(line)
        return found

    def step(self) -> dict[str, float]:
        assert self.process.stdin is not None
        print("step", file=self.process.stdin, flush=True)
        return self.read()

    def two_steps(self) -> dict[str, float]:
        """The second of two steps: it follows one of its own kind, as in a training."""
        self.step()
        return self.step()

    def close(self) -> None:
        self.process.communicate()


SIDES: dict[str, Callable[[str, Path], Step]] = {
    "ours": ours,
    "peer": peer,
    "compiled": partial(peer, compiled=True),
}


def compare(method: str, decoder: str, count: int, steps: int, other: str) -> dict[str, float]:
    """Both sides in turn, with ``count`` examples a step."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, vocab = prepare_decoder(decoder, Path(temporary))
        write_examples(folder, make_examples(count=count, vocab=vocab))
        sides = {"ours": Side("ours", method, folder), "peer": Side(other, method, folder)}
        first = {name: side.step() for name, side in sides.items()}
        for side in sides.values():
            side.step()  # tunix compiles its second step once more
        told = [{name: side.two_steps() for name, side in sides.items()} for _ in range(steps)]
        for side in sides.values():
            side.close()
    losses = {name: first[name]["loss"] for name in sides}
    print(f"loss of the first step: {losses}", file=sys.stderr)
    seconds = {name: statistics.median(step[name]["s"] for step in told) for name in sides}
    return {
        "ours_s": round(seconds["ours"], 3),
        "peer_s": round(seconds["peer"], 3),
        "ratio": round(seconds["peer"] / seconds["ours"], 2),
        "ours_compile_s": round(first["ours"]["s"] - seconds["ours"], 2),
        "ours_peak_mib": round(told[-1]["ours"]["mib"], 1),
        "peer_peak_mib": round(told[-1]["peer"]["mib"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--size", choices=SIZES, default="15M")
    parser.add_argument("--decoder", help="a folder, or a shape of benchmarks/real_decoders.py")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="in a step")
    parser.add_argument("--peer", choices=PEERS, help="default: peft or transformers, by method")
    parser.add_argument("--steps", type=int, default=3, help="timed, after two that are not")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(SIDES[options.serve], options.method, options.folder)
    if options.peer and options.method not in PEERS[options.peer]:
        parser.error(f"{options.peer} is measured with: {', '.join(PEERS[options.peer])}")
    if options.peer == "tunix" and not TUNIX.exists():
        parser.error("tunix is not installed; run benchmarks/peers/tunix.sh first")
    if options.peer == "tunix" and (options.decoder or options.examples != EXAMPLES):
        parser.error("tunix is measured on the shapes of --size, with 32 examples")
    chosen = options.peer or "peer"
    other = chosen if chosen == "tunix" else "compiled" if "compiled" in chosen else "peer"
    decoder = options.decoder or options.size
    figures = compare(options.method, decoder, options.examples, options.steps, other)
    print(json.dumps(figures))
    return None


if __name__ == "__main__":
    main()
