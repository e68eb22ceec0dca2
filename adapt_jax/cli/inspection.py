"""``adapt-jax inspect``: its options, and how it is shown. Imports nothing heavy before it runs."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.inspection.inspect import Inspection

SUMMARY = "what a checkpoint is, and what adapting it needs, before anything is loaded"
ABOUT = """\
Says what a checkpoint is (config.json and the headers of its files are read, the weights need not
be there), what each method would train, and the memory of one device: parameters, gradients,
optimizer, cache, activations. The steps of training and decoding are compiled for it, and nothing
is allocated; decoders of many layers are compiled with few, and continued in a straight line.

  adapt-jax inspect meta-llama/Llama-3.2-3B
  adapt-jax inspect path/to/model --method lora --method.rank 32 --batch 8 --length 1024
  adapt-jax inspect path/to/model --method fine_tuning --mesh data=2,fsdp=4
  adapt-jax inspect path/to/model --method fine_tuning --mesh v5e:2x4
  adapt-jax inspect path/to/model --method self_consistency --slots 64 --prefix 900

A batch is N examples of T tokens, packed into rows as in training; A of the T are the answer, which
the loss is on, or which is generated. Any option of a method can be given, as --method.KEY VALUE.

Parts: "parameters" are the decoder's, and what is trained beside it; "original" is the decoder as
it was loaded, which fine-tuning keeps; "questions" are encoded and wait for a slot; "activations"
are all that the compiler needs beside these; "process", on a CPU, is what else the process comes
to hold: tokenizer, compiled code, what compiling left behind. Accelerators are judged with the
weights as they are stored, or as --dtype says; the activations are those of the platform that was
compiled for, which --mesh v5e:1x1 (v6e, v5p, v4) chooses without owning one."""
OWN = {  # whether an option takes a value
    "--mesh": True,
    "--method": True,
    "--batch": True,
    "--length": True,
    "--answer": True,
    "--prefix": True,
    "--slots": True,
    "--candidates": True,
    "--dtype": True,
    "--context-length": True,
    "--json": False,
    "--quick": False,
}


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of the command."""
    sub.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, a hub name, or embedded")
    sub.add_argument("--method", action="append", help="a rung, or several with commas; repeat it")
    sub.add_argument("--mesh", help="data=2,fsdp=4 or a TPU topology, v5e:2x4, or both")
    sub.add_argument("--batch", type=int, default=32, metavar="N", help="examples of a step (32)")
    sub.add_argument("--length", type=int, default=256, metavar="T", help="tokens of each (256)")
    sub.add_argument("--answer", type=int, metavar="A", help="of these, the answer's (half)")
    sub.add_argument("--prefix", type=int, default=0, metavar="P", help="tokens in front (0)")
    sub.add_argument("--slots", type=int, default=128, help="sequences decoded side by side (128)")
    sub.add_argument("--candidates", type=int, help="of a single question; no more slots are made")
    sub.add_argument("--dtype", help="of frozen weights and cache: float32, bfloat16, float16")
    sub.add_argument("--context-length", type=int, help="where config.json is not to say it")
    sub.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    sub.add_argument("--quick", action="store_true", help="compile nothing: no memory is told")


def run(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax inspect"""
    from adapt_jax.inspection.inspect import DEFAULT, inspect
    from adapt_jax.inspection.programs import Workload
    from adapt_jax.utils.config import override, use_compilation_cache
    from adapt_jax.utils.progress import Display

    for key in overrides:
        if not key.startswith("method."):
            raise UserError(f"unknown option --{key} of inspect; a method's are --method.KEY")
    names = [name for part in options.method or () for name in part.split(",") if name]
    if overrides and len(names) != 1:
        raise UserError(f"--{next(iter(overrides))}: expected one --method that it belongs to")
    given = override({}, overrides, "inspect").get("method", {})
    if options.candidates:
        given |= {"candidates": options.candidates} if names == ["self_consistency"] else {}
    answer = options.length // 2 if options.answer is None else options.answer
    sizes = {key: getattr(options, key) for key in ("batch", "length", "prefix", "slots")}
    work = Workload(answer=answer, candidates=options.candidates, **sizes)
    use_compilation_cache()
    found = inspect(
        options.checkpoint,
        names or DEFAULT,
        work=work,
        mesh=options.mesh,
        dtype=options.dtype,
        overrides=given,
        context_length=options.context_length,
    )
    if not options.json:
        print("\n".join(describe(found)), flush=True)
    if not options.quick:
        with Display(not options.json).stage("compiling") as update:
            found.measure(update)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    elif found.measured:
        show_memory(found)


def describe(found: "Inspection") -> list[str]:
    """What the checkpoint is, and what each method would train."""
    from adapt_jax.pretrained.loading import join_names

    checkpoint, config = found.checkpoint, found.checkpoint.config
    total = sum(checkpoint.parameters.values())
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in checkpoint.parameters.items())
    size = f", {human(checkpoint.nbytes)}" if checkpoint.nbytes else ""
    if checkpoint.missing:
        size += f"; the weights are absent: {join_names(checkpoint.missing, 1)}"
    lines = [
        f"{checkpoint.path}: {config.family}, {config.num_layers} layers, "
        f"context {config.context_length:,} tokens",
        f"  parameters  {total:,} ({kinds})",
        f"  stored as   {checkpoint.dtype}{size}",
        f"  tokenizer   {'there' if checkpoint.tokenizer else 'absent'}",
        "  would train",
    ]
    for name, number in found.trained.items():
        lines.append(f"    {name:<18} {number:>14,}  {100 * number / total:.3g} %")
    return lines


def show_memory(found: "Inspection") -> None:
    """Parts by method, then accelerators by method."""
    from rich.table import Table

    from adapt_jax.utils.progress import new_console

    console, work = new_console(), found.work
    mesh = "" if found.mesh is None else ", ".join(f"{k}={n}" for k, n in found.mesh.shape.items())
    where = " ".join(part for part in (found.topology, mesh) if part) or "one device"
    title = (
        f"memory of a device: {where}, compiled for {found.platform}, weights {found.dtype}; "
        f"{work.batch} examples of {work.length} tokens ({work.answer} of the answer), "
        f"{work.prefix} in front; {work.slots} slots"
    )
    memories = {name: measured.memory() for name, measured in found.measured.items()}
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    for name in memories:
        table.add_column(name, justify="right")
    for part in dict.fromkeys(part for memory in memories.values() for part in memory.parts):
        table.add_row(part, *(human(memory.parts.get(part, 0)) for memory in memories.values()))
    table.add_section()
    table.add_row("together", *(human(memory.total) for memory in memories.values()))
    console.print(table)
    if found.imported:
        console.print(
            "resident memory of the whole process, at its highest and compiling included, beyond "
            f"the {human(found.imported)} of one that has only imported its libraries"
        )
    verdicts = {name: found.verdicts(name) for name in memories}
    table = Table(title=f"does it fit? (weights {found.elsewhere})", title_justify="left")
    table.add_column("device")
    for name in memories:
        table.add_column(name)
    for row in zip(*verdicts.values(), strict=True):
        table.add_row(row[0]["device"], *map(cell, row))
    console.print(table)


def cell(verdict: dict[str, Any]) -> str:
    """A verdict in few words."""
    helps = ", or ".join(verdict.get("helps", ()))
    if verdict["fits"]:
        return f"fits, with {helps}" if helps else "fits"
    why = f"no: {verdict['largest']} of {human(verdict['needed_bytes'])}"
    return why + (f"; would: {helps}" if helps else "")


def human(size: int) -> str:
    """Bytes in the unit that reads well."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):,.1f} {unit}"
    return f"{size / 1024:,.1f} KiB" if size else ""
