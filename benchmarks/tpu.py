"""Compiles the real steps for TPU slices that need not be here, and says what the compiler says.

    python -m benchmarks.tpu --decoder llama-3.2-3b --slice v5e-16 --method fine_tuning lora
    python -m benchmarks.tpu                     # every decoder, slice and method: hours

For each combination a JSON line: memory of a chip, operations, bytes, collectives, seconds of
compiling, and a bound. Nothing is executed, so no figure is a measurement of speed. The bound is a
roofline (10.1145/1498765.1498785): the step takes at least

    max(operations / peak, bytes / memory bandwidth, communicated bytes / link bandwidth)

seconds on each chip, from published peaks (benchmarks/tpu_shapes.py). Operations of training are
4 (N T + H M) + 2 (N' T + H' M) (training.throughput.StepFlops) and those of attention,
12 L N H S per token with S keys, half of that where the decoder is causal; recomputed layers add
their forward pass. Bytes are those of the arguments and results, and twice those of the gathered
weights: what has to be moved at least. ``share_of_peak`` is what operations without recomputing
would reach of the peak, if the step took no longer than its bound.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.execution import choose_execution
from adapt_jax.inspection.abstract import count_bytes
from adapt_jax.inspection.accelerators import check_fit
from adapt_jax.inspection.checkpoint import count_parameters, read_checkpoint
from adapt_jax.inspection.memory import Measurement, count_bytes_beside, read_refusal
from adapt_jax.inspection.mesh import read_mesh
from adapt_jax.inspection.programs import build_programs
from adapt_jax.inspection.training_programs import trace_tuning
from adapt_jax.inspection.workload import Program, Workload
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.sampling.compiled import CHUNK
from adapt_jax.training.throughput import StepFlops
from adapt_jax.utils.errors import UserError
from benchmarks.collectives import Collectives, read_collectives
from benchmarks.tpu_shapes import DECODERS, SLICES, Slice

DECODING = "self_consistency"
CHOICES = ("prompt_tuning", "lora", "fine_tuning", DECODING)


def read_config(name: str, layers: int | None) -> DecoderConfig:
    """The decoder's config, perhaps of its first layers alone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(DECODERS[name]))
        config = read_checkpoint(folder).config
    if layers is None:
        return config
    kinds = config.layer_configs
    kinds = kinds[:layers] if len(kinds) > 1 else kinds
    return replace(config, num_layers=layers, layer_configs=kinds)


def choose_workload(options: argparse.Namespace, method: str, mesh: Any) -> Workload:
    """So many rows, in decoding sequences, for each share of the batch."""
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if method == DECODING:
        slots = options.sequences * shares
        return Workload(1, 512, 256, options.prefix, max_concurrent_sequences=slots)
    return Workload(options.rows * shares, options.length, options.length // 2)


def choose_mesh(method: str, slice_: Slice, config: DecoderConfig) -> str:
    """Training shards the weights over all chips. Decoding shares each product among as few chips
    as hold the weights in half of their memory."""
    if method != DECODING:
        return f"fsdp={slice_.chips}"
    nbytes, tensor = 2 * sum(count_parameters(config).values()), 1
    while tensor < slice_.chips and nbytes / tensor > slice_.usable / 2:
        tensor *= 2
    return f"data={slice_.chips // tensor},tensor={tensor}"


def count_attention(config: DecoderConfig, work: Workload, tokens: int, keys: float) -> float:
    """Operations of the forward pass's attention scores and weighted values."""
    total = 0.0
    for index in range(config.num_layers):
        layer = config.layer_config(index)
        seen = keys if layer.window is None else min(keys, layer.window)
        total += 4 * config.num_heads * layer.head_dim * seen * tokens
    return total


def count_operations(
    config: DecoderConfig, method: Any, work: Workload, mesh: Any
) -> tuple[float, float]:
    """Operations of a step on all chips: those that the result needs, and those that are made."""
    if not isinstance(method, TuningMethod):
        # each of CHUNK steps multiplies every weight but the embedding's with each sequence
        traced = trace_tuning(config, METHODS["fine_tuning"](), jnp.bfloat16)
        weights = StepFlops(traced.trainable, traced.frozen, 0)
        inner, output = weights.all
        tokens = work.max_concurrent_sequences * CHUNK
        attention = count_attention(config, work, tokens, work.prefix + work.length)
        needed = 2.0 * (inner + output) * tokens + attention
        return needed, needed
    traced = trace_tuning(config, method, jnp.bfloat16)
    flops = StepFlops(traced.trainable, traced.frozen, traced.soft_prompt_length)
    tokens, targets = work.batch * work.length, work.batch * work.answer
    attention = count_attention(config, work, tokens, traced.soft_prompt_length + work.length / 2)
    needed = flops.count(tokens, targets) + 3 * attention
    inner, _ = flops.all
    recomputes = choose_execution(mesh, method.training.remat).remat == "layers"
    return needed, needed + (2 * inner * tokens + attention if recomputes else 0)


def find_remedy(needed: int, slice_: Slice) -> str:
    """What would hold so many bytes of a chip, if all is divided among more chips."""
    times = next(
        n for n in (2**power for power in range(1, 20)) if needed / n * 1.1 <= slice_.usable
    )
    return f"{times} x as many chips, or rows of 1/{times} of the length"


def find_bound(
    program: Program, slice_: Slice, operations: float, collectives: Collectives, repeats: int
) -> dict[str, Any]:
    """Least seconds of a step on one chip, by what they are spent on; see the module."""
    weights = 2 * collectives.nbytes.get("all-gather", 0)
    moved = repeats * count_bytes(program.arguments) + weights
    weight = {"all-reduce": 2.0}  # reduced, then gathered
    sent = sum(size * weight.get(kind, 1.0) for kind, size in collectives.nbytes.items())
    sent *= (slice_.chips - 1) / slice_.chips
    return {
        "compute": operations / slice_.chips / slice_.flops,
        "memory": moved / slice_.memory_bandwidth,
        "links": sent / slice_.link_bandwidth,
    }


def compile_step(name: str, slice_name: str, method: str, options: argparse.Namespace) -> Any:
    """The JSON line of one combination."""
    slice_, config = SLICES[slice_name], read_config(name, options.layers)
    sizes = options.mesh or choose_mesh(method, slice_, config)
    mesh, _ = read_mesh(f"{slice_.topology},{sizes}")
    work = choose_workload(options, method, mesh)
    adaptation = METHODS[method]()
    programs = build_programs(adaptation, work, jnp.dtype(jnp.bfloat16), mesh)(config)
    (program,) = (one for one in programs if one.name in ("training step", "decoding step"))
    row = {"decoder": name, "slice": slice_name, "method": method, "mesh": sizes}
    row |= {"layers": config.num_layers, "batch": work.batch, "length": work.length}
    assert program.lower is not None
    began, cpu = time.perf_counter(), time.process_time()
    lowered = program.lower()
    arguments = count_bytes(program.arguments)
    try:
        compiled = lowered.compile()
        beside, text = count_bytes_beside(compiled, arguments), compiled.as_text()
    except jax.errors.JaxRuntimeError as refusal:
        beside, text = read_refusal(str(refusal), program.name, arguments), ""
    row["compile_seconds"] = round(time.perf_counter() - began, 1)
    row["compile_processor_seconds"] = round(time.process_time() - cpu, 1)

    measurement = Measurement([program], [beside], (config.num_layers,))
    verdict = check_fit(measurement, slice_.accelerator, "bfloat16", work)
    parts = measurement.memory().parts
    row["gib_of_a_chip"] = {part: round(size / 2**30, 2) for part, size in parts.items()}
    row["gib_together"] = round(verdict["needed_bytes"] / 2**30, 2)
    row["fits"] = verdict["fits"]
    if not verdict["fits"]:
        row["would_fit"] = find_remedy(verdict["needed_bytes"], slice_)
    needed, made = count_operations(config, adaptation, work, mesh)
    row["teraflop_of_a_chip"] = round(made / slice_.chips / 1e12, 2)
    if not text:
        return row
    found = read_collectives(text)
    row["collectives"] = {
        kind: {
            "executed": count,
            "in_loops": found.in_loops.get(kind, 0),
            "mib": round(found.nbytes[kind] / 2**20, 1),
        }
        for kind, count in sorted(found.counts.items())
    }
    repeats = CHUNK if method == DECODING else 1
    bound = find_bound(program, slice_, made, found, repeats)
    least = max(bound.values())
    row["bound_seconds"] = {part: round(value, 4) for part, value in bound.items()}
    row["bound_by"] = max(bound, key=lambda part: bound[part])
    row["share_of_peak_at_bound"] = round(needed / slice_.chips / slice_.flops / least, 3)
    return row


def main() -> None:
    """Parses, compiles one combination after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--decoder", choices=DECODERS, nargs="+", default=list(DECODERS))
    parser.add_argument("--slice", choices=SLICES, nargs="+", default=list(SLICES))
    parser.add_argument("--method", choices=CHOICES, nargs="+", default=list(CHOICES))
    parser.add_argument("--mesh", help="such as data=2,tensor=8; by default see choose_mesh")
    parser.add_argument(
        "--rows", type=int, default=1, help="of a share of the batch (data x fsdp), in training"
    )
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument(
        "--sequences", type=int, default=128, help="of a share of the batch, in decoding"
    )
    parser.add_argument("--prefix", type=int, default=1024, help="tokens, in decoding")
    parser.add_argument("--layers", type=int, help="the first layers alone")
    options = parser.parse_args()
    for name in options.decoder:
        for slice_name in options.slice:
            for method in options.method:
                try:
                    row = compile_step(name, slice_name, method, options)
                except UserError as error:  # does not fit the mesh
                    row = {"decoder": name, "slice": slice_name, "method": method}
                    row["refused"] = str(error)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
