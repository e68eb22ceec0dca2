"""Does `adapt-jax inspect` tell the truth? Its figures against the resident memory of real runs.

    python -m benchmarks.inspection --size 60M

Each run is a process of its own on the CPU: it loads a random Llama, then trains three steps, or
writes candidates, as the commands do. Measured is the resident memory at its highest after
everything was compiled once, minus that after loading; foretold is what inspect says, minus the
parameters. Ends with a JSON line per run.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shapes import SIZES, VOCAB, write_llama

METHODS = ("fine_tuning", "lora", "prompt_tuning", "self_consistency")
WORK: dict[str, Any] = {"batch": 8, "length": 256, "answer": 128, "prefix": 64, "slots": 64}


def resident(key: str) -> int:
    """Resident bytes of this process: now (VmRSS) or at its highest (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def settle() -> None:
    """Gives freed memory back, and forgets the highest resident size so far."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def train(model: Any, name: str) -> None:
    """Three steps, as the method's ``adapt`` makes them."""
    import jax.numpy as jnp
    from flax import nnx

    from adapt_jax.decoders.prefix import SoftPrompt
    from adapt_jax.methods import METHODS
    from adapt_jax.tuning.batches import TrainingExample
    from adapt_jax.tuning.examples import cast, own_copy
    from adapt_jax.tuning.lora import attach
    from adapt_jax.tuning.losses import TunedDecoder
    from adapt_jax.tuning.trainer import train

    method: Any = METHODS[name]()
    config = method.training.model_copy(update={"steps": 3, "batch_size": WORK["batch"]})
    decoder, soft_prompt, chosen = model.decoder, None, nnx.Param
    if name == "prompt_tuning":
        soft_prompt = SoftPrompt(decoder.embed(jnp.arange(method.length)))
        chosen = nnx.PathContains("soft_prompt")
    else:
        decoder = own_copy(decoder, None)
    if name == "lora":
        attach(decoder, method.modules, method.rank, method.alpha, nnx.Rngs(0))
        chosen = nnx.PathContains("lora")
    if name == "fine_tuning":
        cast(decoder, chosen, jnp.float32)
    tokens = tuple(3 + number % (VOCAB - 3) for number in range(WORK["length"]))
    example = TrainingExample("", tokens, WORK["length"] - WORK["answer"])
    front = range(3, 3 + WORK["prefix"])
    examples = [example] * WORK["batch"]
    train(TunedDecoder(decoder, soft_prompt), chosen, examples, config, seed=0, front=front)


def write(model: Any) -> None:
    """As many candidates as there are slots, of four questions."""
    from adapt_jax.decoders.prefix import Prefix
    from adapt_jax.sampling.decoding import Decoding, Request
    from adapt_jax.sampling.engine import Engine

    decoding = Decoding(WORK["answer"], temperature=0.7, top_k=40, candidates=WORK["slots"] // 16)
    question = tuple(range(3, 3 + WORK["length"] - WORK["answer"]))
    requests = [Request(str(number), question) for number in range(16)]
    prefix = Prefix((tuple(range(3, 3 + WORK["prefix"])),))
    engine = Engine(model, prefix, decoding, seed=0, slots=WORK["slots"])
    list(engine.run(requests))


def serve(folder: Path, name: str, dtype: str) -> None:
    """In its own process: what a run takes beyond the loaded decoder, at first and once more."""
    import gc

    import jax

    import adapt_jax.sampling.engine
    import adapt_jax.tuning.trainer  # noqa: F401  (what is imported later would be counted)
    from adapt_jax.decoders.pretrained import load_pretrained

    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    model = load_pretrained(folder, dtype=dtype)
    settle()
    before = resident("VmRSS")
    told = {}
    for when in ("cold", "warm"):
        settle()
        start = resident("VmRSS")
        if name == "self_consistency":
            write(model)
        else:
            train(model, name)
        told[when] = resident("VmHWM") - (before if when == "cold" else start)
        gc.collect()
    print(json.dumps(told))


def compare(folder: Path, name: str, dtype: str) -> dict[str, Any]:
    """Foretold and measured, in MiB."""
    from adapt_jax.decoders.folders import read_config
    from adapt_jax.inspection.memory import measure
    from adapt_jax.inspection.programs import Workload, build
    from adapt_jax.methods import METHODS

    _, config = read_config(folder)
    programs = build(METHODS[name](), Workload(**WORK), dtype, None)
    memory = measure(programs, config, lambda *_: None).memory()
    command = [sys.executable, "-m", "benchmarks.inspection", "--serve", name]
    command += ["--folder", str(folder), "--dtype", dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    loaded = memory.parts.get("original", memory.parts["parameters"])
    told = memory.total - loaded
    return {
        "method": name,
        "dtype": dtype,
        "foretold_mib": round(told / 2**20, 1),
        "measured_mib": round(measured["warm"] / 2**20, 1),
        "cold_mib": round(measured["cold"] / 2**20, 1),
        "ratio": round(told / measured["warm"], 3),
        "moment": memory.moment,
        "parts_mib": {part: round(size / 2**20, 1) for part, size in memory.parts.items()},
    }


def main() -> None:
    """Parses, runs, compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="60M")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", choices=METHODS, nargs="*", default=METHODS)
    parser.add_argument("--serve", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.folder, options.serve, options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder), options.size)
        for name in options.method:
            print(json.dumps(compare(Path(folder), name, options.dtype)), flush=True)
    return None


if __name__ == "__main__":
    main()
