"""``adapt-jax inspect``: its options, and how the result is shown."""

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from adapt_jax.cli.options import ContextLength, Overrides, collect_overrides
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.inspection.inspect import Inspection

__all__ = ["inspect"]

Count = Number(gte=1)


Checkpoint = Annotated[str, Parameter(help="a folder, a hub name, or `embedded`")]
Methods = Annotated[
    list[str], Parameter(help="a rung, or several with commas; repeatable", show_default=False)
]
MeshSizes = Annotated[
    str | None, Parameter(help="data=2,fsdp=4, or a TPU topology, v5e:2x4, or both")
]
BatchSize = Annotated[int, Parameter(help="examples of a training step", validator=Count)]
Length = Annotated[int, Parameter(help="tokens of each example", validator=Count)]
Answer = Annotated[int | None, Parameter(help="how many of them are the answer; by default half")]
PrefixLength = Annotated[
    int, Parameter(help="tokens of the prompt prefix", validator=Number(gte=0))
]
Sequences = Annotated[
    int, Parameter(help="sequences that are decoded at the same time", validator=Count)
]
Candidates = Annotated[
    int | None,
    Parameter(help="decode these candidates of one question, and no more", validator=Count),
]
Dtype = Annotated[
    str | None, Parameter(help="of frozen weights and cache: float32, bfloat16, float16")
]
AsJson = Annotated[
    bool,
    Parameter(name="--json", help="print one JSON object and nothing else", show_default=False),
]
Quick = Annotated[
    bool, Parameter(help="compile nothing: no memory is reported", show_default=False)
]


def inspect(
    checkpoint: Checkpoint,
    /,
    *,
    method: Methods = [],  # noqa: B006 (never changed)
    mesh: MeshSizes = None,
    batch: BatchSize = 32,
    length: Length = 256,
    answer: Answer = None,
    prefix: PrefixLength = 0,
    max_concurrent_sequences: Sequences = 128,
    candidates: Candidates = None,
    dtype: Dtype = None,
    context_length: ContextLength = None,
    json_output: AsJson = False,
    quick: Quick = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Show what a checkpoint is and what adapting it needs, without loading it.

    Reads config.json and the headers of its files (the weights need not be there) and shows what
    each method would train, and the memory of one device: parameters, gradients, optimizer, cache,
    activations. The steps of training and decoding are compiled for it, and nothing is allocated.

    ```
    adapt-jax inspect path/to/model --method lora --method.rank 32 --batch 8 --length 1024
    adapt-jax inspect path/to/model --method fine_tuning --mesh data=2,fsdp=4
    adapt-jax inspect path/to/model --method fine_tuning --mesh v5e:2x4
    adapt-jax inspect path/to/model --method self_consistency --max-concurrent-sequences 64
    ```

    A training step has --batch examples of --length tokens, packed into rows as in training. Of
    these tokens --answer are the answer, which the loss is computed on, or which is generated. Any
    option of a method can be given, as `--method.KEY VALUE`.

    Parts: "parameters" are the decoder's, and what is trained besides it; "original" is the decoder
    as it was loaded, which fine-tuning keeps; "questions" are encoded and wait for a slot;
    "activations" are all that the compiler needs besides these; "process", on a CPU, is what else
    the process comes to hold: tokenizer, compiled code, what compiling left behind. Accelerators
    are judged with the weights as they are stored, or as --dtype says; the activations are those of
    the platform that was compiled for, which `--mesh v5e:1x1` (v6e, v5p, v4) chooses.
    """
    from adapt_jax.inspection.inspect import inspect as run_inspection
    from adapt_jax.inspection.workload import Workload
    from adapt_jax.utils.compilations import use_compilation_cache

    names = [name for part in method for name in part.split(",") if name]
    answer = length // 2 if answer is None else answer
    work = Workload(batch, length, answer, prefix, max_concurrent_sequences, candidates)
    use_compilation_cache()
    found = run_inspection(
        checkpoint,
        names,
        work=work,
        mesh=mesh,
        dtype=dtype,
        overrides=_collect_method_options(overrides, names),
        context_length=context_length,
    )
    _report(found, json_output, quick)


def _report(found: "Inspection", json_output: bool, quick: bool) -> None:
    """Prints what is known at once, and the memory when it is measured; or all as one JSON."""
    from adapt_jax.utils.interruption import end_at_once
    from adapt_jax.utils.progress import Display

    if not json_output:
        print("\n".join(_describe(found)), flush=True)
    if not quick:
        with end_at_once(), Display(not json_output).stage("compiling") as update:
            found.measure(update)
    if json_output:
        print(json.dumps(found.to_dict(), indent=2))
    elif found.measured:
        _show_memory(found)


def _collect_method_options(overrides: list[str], names: list[str]) -> dict[str, Any]:
    """The options of the one method that ``--method.KEY VALUE`` belongs to."""
    from adapt_jax.utils.config import override

    given = collect_overrides(overrides)
    for key in given:
        if not key.startswith("method."):
            raise UserError(f"unknown option --{key} of inspect; a method's are --method.KEY")
    if given and len(names) != 1:
        raise UserError(f"--{next(iter(given))}: expected one --method that it belongs to")
    options: dict[str, Any] = override({}, given, "inspect").get("method", {})
    return options


def _describe(found: "Inspection") -> list[str]:
    """Lines about the checkpoint, and the number of parameters that each method would train."""
    from adapt_jax.pretrained.weight_files import join_names

    checkpoint, config = found.checkpoint, found.checkpoint.config
    total = sum(checkpoint.parameters.values())
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in checkpoint.parameters.items())
    size = f", {_format_bytes(checkpoint.nbytes)}" if checkpoint.nbytes else ""
    if checkpoint.missing:
        size += f"; the weights are absent: {join_names(checkpoint.missing, 1)}"
    stored = checkpoint.dtype
    if checkpoint.quantization:
        stored = f"{checkpoint.quantization}; becomes {stored}"
    lines = [
        f"{checkpoint.path}: {config.family}, {config.num_layers} layers, "
        f"context {config.context_length:,} tokens",
        f"  parameters  {total:,} ({kinds})",
        f"  stored as   {stored}{size}",
        f"  tokenizer   {'there' if checkpoint.tokenizer else 'absent'}",
        "  would train",
    ]
    for name, number in found.trained.items():
        lines.append(f"    {name:<18} {number:>14,}  {100 * number / total:.3g} %")
    return lines


def _show_memory(found: "Inspection") -> None:
    """Parts by method, then accelerators by method."""
    from rich.table import Table

    from adapt_jax.utils.progress import new_console

    console, work = new_console(), found.work
    mesh = "" if found.mesh is None else ", ".join(f"{k}={n}" for k, n in found.mesh.shape.items())
    where = " ".join(part for part in (found.topology, mesh) if part) or "one device"
    title = (
        f"memory of a device: {where}, compiled for {found.platform}, weights {found.dtype}; "
        f"{work.batch} examples of {work.length} tokens ({work.answer} of the answer), "
        f"{work.prefix} of the prompt prefix; {work.max_concurrent_sequences} sequences at a time"
    )
    memories = {name: measured.memory() for name, measured in found.measured.items()}
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    for name in memories:
        table.add_column(name, justify="right")
    for part in dict.fromkeys(part for memory in memories.values() for part in memory.parts):
        table.add_row(
            part, *(_format_bytes(memory.parts.get(part, 0)) for memory in memories.values())
        )
    table.add_section()
    table.add_row("together", *(_format_bytes(memory.total) for memory in memories.values()))
    console.print(table)
    if found.imported:
        console.print(
            "resident memory of the whole process, at its highest and compiling included, beyond "
            f"the {_format_bytes(found.imported)} of one that has only imported its libraries"
        )
    verdicts = {name: found.verdicts(name) for name in memories}
    table = Table(title=f"does it fit? (weights {found.accelerator_dtype})", title_justify="left")
    table.add_column("device")
    for name in memories:
        table.add_column(name)
    for row in zip(*verdicts.values(), strict=True):
        table.add_row(row[0]["device"], *map(_format_verdict, row))
    console.print(table)


def _format_verdict(verdict: dict[str, Any]) -> str:
    """A verdict in few words."""
    suggestions = ", or ".join(verdict.get("suggestions", ()))
    if verdict["fits"]:
        return f"fits, with {suggestions}" if suggestions else "fits"
    why = f"no: {verdict['largest']} of {_format_bytes(verdict['needed_bytes'])}"
    return why + (f"; would: {suggestions}" if suggestions else "")


def _format_bytes(size: int) -> str:
    """Bytes in the unit that reads well."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):,.1f} {unit}"
    return f"{size / 1024:,.1f} KiB" if size else ""
