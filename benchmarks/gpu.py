"""Sampling and tuning on one NVIDIA GPU, against transformers, PEFT and vLLM.

    python -m benchmarks.gpu                       # a 1B Llama shape in bfloat16, within 10 minutes
    python -m benchmarks.gpu --shape tiny --allow-cpu

Each side is a process of its own, one after the other: it loads the same random weights, works once
to warm up, then repeats. A JSON line for each, and for each of ours the ratio to its peers. What
the time does not reach, or is not installed, is said so.

- Sampling: questions with several candidates behind a long prefix. vLLM caches the prefix itself;
  transformers is measured plainly and with the prefix's cache computed once.
- Tuning: steps of prompt tuning, LoRA and fine-tuning of benchmarks.tuning's examples. Frozen
  weights are bfloat16; fine-tuning has float32 weights and computes in bfloat16 on both sides.

``share_of_peak`` is the operations of our step (training.throughput.StepFlops, without attention)
by the GPU's dense bfloat16 peak. ``share_of_bandwidth`` is what a decoding step has to read
(benchmarks.roofline.count: weights and prefix once, each row its cache at half of its final
length) by the GPU's memory bandwidth; the time is that of the whole run, the prefix's included.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT
from benchmarks.shapes import SIZES, VOCAB, write_llama
from benchmarks.tuning import METHODS, RANK, RATE, SOFT, make_examples

# Bytes per second of a GPU's memory, by a part of its name; from NVIDIA's data sheets.
BANDWIDTHS = {
    "H200": 4.8e12,
    "H100": 3.35e12,
    "A100": 1.935e12,
    "L40S": 864e9,
    "L4": 300e9,
    "T4": 320e9,
}
LIMIT = 600  # seconds of all together
LEAST = 20  # seconds that a side is begun with
PEERS = {
    "sampling": ("transformers", "transformers_cached", "vllm"),
    "prompt_tuning": ("peft",),
    "lora": ("peft",),
    "fine_tuning": ("transformers",),
}
PACKAGES = {"peft": "peft", "vllm": "vllm"}  # transformers: torch, which both have
WORK = {"questions": 8, "question_tokens": 40, "candidates": 16, "prefix": 900, "new_tokens": 96}
SMALL = {"questions": 2, "question_tokens": 8, "candidates": 2, "prefix": 32, "new_tokens": 8}


def repeat(run: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return seconds


# Our side


def sample_ours(settings: dict[str, Any]) -> dict[str, Any]:
    """Self-consistency by the engine; the prefix is encoded within the measured time."""
    import jax.numpy as jnp

    from adapt_jax.decoders.prefix import Prefix
    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.sampling.engine import Engine
    from adapt_jax.sampling.types import GenerationConfig, Request
    from benchmarks.roofline import count

    model = load_pretrained(settings["folder"], dtype=jnp.bfloat16)
    options = GenerationConfig(
        max_new_tokens=settings["new_tokens"],
        candidates=settings["candidates"],
        temperature=0.7,
        top_k=40,
    )
    requests = [Request(str(i), tuple(tokens)) for i, tokens in enumerate(settings["questions"])]
    prefix = Prefix((tuple(settings["prefix"]),))

    def run() -> None:
        found = list(Engine(model, prefix, options, seed=0).run(requests))
        assert len(found) == len(requests) * options.candidates

    first = repeat(run, 1)[0]
    seconds = repeat(run, settings["repeats"])
    rows = len(requests) * options.candidates
    columns = len(settings["questions"][0]) + options.max_new_tokens // 2
    step = count(model.config, rows, len(settings["prefix"]), columns, 2)
    moved = step["mib"] * 2**20 * options.max_new_tokens
    return {"first_s": first, "seconds": seconds, "bytes": moved}


def tune_ours(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Steps as the trainer makes them."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from adapt_jax.training.batches import Batches
    from adapt_jax.training.config import TrainingConfig
    from adapt_jax.training.optimizers import make_optimizer
    from adapt_jax.training.packing import TrainingExample
    from adapt_jax.training.step import TrainState, make_step
    from adapt_jax.training.throughput import StepFlops
    from benchmarks.tuning import start

    dtype = jnp.float32 if method == "fine_tuning" else jnp.bfloat16
    model, chosen = start(method, Path(settings["folder"]), dtype)
    config = TrainingConfig(learning_rate=RATE[method], schedule="constant", warmup_steps=0)
    made = make_examples()
    examples = [TrainingExample(str(n), tuple(ids), at) for n, (ids, at) in enumerate(made)]
    batches = Batches(examples, len(examples), config.steps, seed=0)
    graph, trainable, frozen = nnx.split(model, chosen, ...)
    flops = StepFlops(trainable, frozen, SOFT if method == "prompt_tuning" else 0)
    update = make_optimizer(config)
    state = TrainState(trainable, update.init(trainable))
    step, prompt_prefix = make_step(graph, update, config), jnp.zeros(0, jnp.int32)

    def run() -> None:
        nonlocal state
        state, measured = step(state, frozen, jax.device_put(next(batches)), prompt_prefix)
        float(jax.block_until_ready((state, measured))[1]["loss"])

    first = repeat(run, 1)[0]
    repeat(run, 1)
    tokens, targets = sum(len(ids) for ids, _ in made), sum(len(ids) - at for ids, at in made)
    seconds = repeat(run, settings["repeats"])
    return {"first_s": first, "seconds": seconds, "flops": flops.count(tokens, targets)}


# The peers


def sample_transformers(settings: dict[str, Any], is_cached: bool) -> dict[str, Any]:
    """transformers' generate: plain, or with the prefix's cache computed once per run."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=torch.bfloat16)
    model = model.to(device).eval()
    prefix = torch.tensor(settings["prefix"], device=device)[None]
    questions = torch.tensor(settings["questions"], device=device)
    whole = torch.cat([prefix.expand(len(questions), -1), questions], dim=1)
    rows = whole.repeat_interleave(settings["candidates"], dim=0)
    options = {
        "max_new_tokens": settings["new_tokens"],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 40,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(rows),
    }

    def run() -> None:
        with torch.inference_mode():
            if is_cached:
                cache = DynamicCache(config=model.config)
                model(prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache.batch_repeat_interleave(len(rows))
                model.generate(rows, past_key_values=cache, **options)
            else:
                model.generate(rows, **options)
            if device == "cuda":
                torch.cuda.synchronize()

    return {"first_s": repeat(run, 1)[0], "seconds": repeat(run, settings["repeats"])}


def sample_vllm(settings: dict[str, Any]) -> dict[str, Any]:
    """vLLM, with its prefix caching."""
    from vllm import LLM, SamplingParams

    model = LLM(
        settings["folder"],
        dtype="bfloat16",
        enable_prefix_caching=True,
        gpu_memory_utilization=0.8,
        disable_log_stats=True,
    )
    prompts = [{"prompt_token_ids": settings["prefix"] + one} for one in settings["questions"]]
    options = SamplingParams(
        n=settings["candidates"],
        max_tokens=settings["new_tokens"],
        temperature=0.7,
        top_k=40,
        ignore_eos=True,
    )

    def run() -> None:
        model.reset_prefix_cache()  # the prefix is encoded within the measured time, as ours is
        model.generate(prompts, options, use_tqdm=False)

    return {"first_s": repeat(run, 1)[0], "seconds": repeat(run, settings["repeats"])}


def tune_torch(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The step of a user of transformers and PEFT: padded on the right to the longest."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if method == "fine_tuning" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=dtype)
    if method != "fine_tuning":
        import peft

        kinds = {
            "prompt_tuning": lambda: peft.PromptTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=SOFT
            ),
            "lora": lambda: peft.LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
            ),
        }
        model = peft.get_peft_model(model, kinds[method]())
    model = model.to(device).train()
    trained = [one for one in model.parameters() if one.requires_grad]
    update = torch.optim.AdamW(trained, lr=RATE[method])
    examples = make_examples()
    width = max(len(tokens) for tokens, _ in examples)
    ids = torch.zeros((len(examples), width), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (tokens, at) in enumerate(examples):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels[row, at : len(tokens)] = torch.tensor(tokens[at:])
    ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)

    def run() -> None:
        update.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        update.step()
        float(loss.detach())  # waits for the GPU

    first = repeat(run, 1)[0]
    repeat(run, 1)
    return {"first_s": first, "seconds": repeat(run, settings["repeats"])}


def run_side(work: str, side: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The figures of one side; called in its own process."""
    if work == "sampling":
        if side == "ours":
            return sample_ours(settings)
        if side == "vllm":
            return sample_vllm(settings)
        return sample_transformers(settings, side == "transformers_cached")
    return tune_ours(work, settings) if side == "ours" else tune_torch(work, settings)


# The comparison


def find_gpu() -> tuple[str, float | None, float | None]:
    """The device's kind, its peak operations and its memory bandwidth per second, where known."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the sides need the memory
    import jax

    from adapt_jax.training.throughput import PEAKS

    device = jax.devices()[0]
    if device.platform != "gpu":
        return device.platform, None, None
    kind = device.device_kind
    find = lambda table: next((value for name, value in table.items() if name in kind), None)  # noqa: E731
    return kind, find(PEAKS), find(BANDWIDTHS)


def measure_side(work: str, side: str, settings: dict[str, Any], left: float) -> dict[str, Any]:
    """The row of one side: its figures, or in one line why there are none."""
    row: dict[str, Any] = {"work": work, "side": side}
    package = PACKAGES.get(side)
    if package is not None and importlib.util.find_spec(package) is None:
        return row | {"skipped": f"{package} is not installed"}
    if left < LEAST:
        return row | {"skipped": "no time is left"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--side", work, side, json.dumps(settings)]
    # a side takes the memory that it needs, and gives all of it back when it ends
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=left
        )
    except subprocess.TimeoutExpired:
        return row | {"skipped": f"did not end in the {left:.0f} seconds that were left"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return row | {"failed": lines[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["median_s"] = statistics.median(found.pop("seconds"))
    return row | found


def describe(row: dict[str, Any], peak: float | None, bandwidth: float | None) -> dict[str, Any]:
    """A row with shares of the device, rounded."""
    if (operations := row.pop("flops", None)) is not None:
        row["teraflop_s"] = operations / row["median_s"] / 1e12
        row["share_of_peak"] = None if peak is None else row["teraflop_s"] * 1e12 / peak
    if (moved := row.pop("bytes", None)) is not None:
        row["gb_s"] = moved / row["median_s"] / 1e9
        row["share_of_bandwidth"] = None if bandwidth is None else row["gb_s"] * 1e9 / bandwidth
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def main() -> None:
    """Measures one side after the other, as long as the time allows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SIZES, default="1B")
    parser.add_argument("--work", choices=("sampling", *METHODS), nargs="+", default=list(PEERS))
    parser.add_argument("--peers", choices=("all", "none"), default="all")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of all together")
    parser.add_argument("--allow-cpu", action="store_true", help="to try it; says nothing of a GPU")
    options = parser.parse_args()
    began = time.monotonic()
    kind, peak, bandwidth = find_gpu()
    if kind in ("cpu", "tpu") and not options.allow_cpu:
        raise SystemExit(f"no GPU here, JAX sees a {kind}: nothing was measured")

    import numpy as np

    draws, work = np.random.default_rng(1), SMALL if options.shape == "tiny" else WORK
    sizes = work["questions"], work["question_tokens"]
    settings = {
        "prefix": draws.integers(3, VOCAB, work["prefix"]).tolist(),
        "questions": draws.integers(3, VOCAB, sizes).tolist(),
        "candidates": work["candidates"],
        "new_tokens": work["new_tokens"],
        "repeats": options.repeats,
    }
    print(json.dumps({"device": kind, "shape": options.shape, "limit_s": options.limit, **work}))
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_llama(Path(temporary) / options.shape, options.shape)
        config = json.loads((folder / "config.json").read_text())  # texts do not end early
        (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
        settings["folder"] = str(folder)
        for name in options.work:
            ours: dict[str, Any] = {}
            for side in ("ours", *(PEERS[name] if options.peers == "all" else ())):
                left = options.limit - (time.monotonic() - began)
                row = measure_side(name, side, settings, left)
                if side == "ours":
                    ours = row
                elif "median_s" in row and "median_s" in ours:
                    row["ratio"] = row["median_s"] / ours["median_s"]
                print(json.dumps(describe(dict(row), peak, bandwidth)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        print(json.dumps(run_side(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))))
    else:
        main()
