"""Puts together what a checkpoint is, what each method would train, and what a device holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pydantic
from jax.sharding import Mesh

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.inspection.accelerators import ACCELERATORS, check_fit, describe_local_accelerator
from adapt_jax.inspection.checkpoint import Checkpoint, read_checkpoint
from adapt_jax.inspection.depth import MIN_DEPTH, count_by_depth, keep_first_layers
from adapt_jax.inspection.memory import Measurement, measure
from adapt_jax.inspection.mesh import read_mesh
from adapt_jax.inspection.process import estimate_process_bytes, measure_imports_and_tokenizer
from adapt_jax.inspection.programs import build_programs
from adapt_jax.inspection.training_programs import trace_tuning
from adapt_jax.inspection.workload import Workload
from adapt_jax.methods.base import Method, TuningMethod
from adapt_jax.methods.fine_tuning import PARTS, FineTuning
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.hf_folder import find_folder
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["Inspection", "count_trained", "inspect"]

DTYPES = ("float32", "bfloat16", "float16")
OnProgram = Callable[[int, int, str], None]


@dataclass
class Inspection:
    """The facts about a checkpoint that are known before anything is loaded.

    Attributes:
        methods: those whose steps are compiled, by name.
        topology: the TPU slice that is compiled for, such as "v5e:2x4"; empty for this machine.
        dtype: of the frozen weights, as compiled.
        accelerator_dtype: of the frozen weights on an accelerator.
        trained: parameters that each tuning method would train.
        measured: by method, once ``measure`` has run.
        imported: on a CPU, resident bytes of a process that has only imported its libraries; they
            are in no part.
    """

    checkpoint: Checkpoint
    methods: dict[str, Method]
    work: Workload
    mesh: Mesh | None
    topology: str
    dtype: str
    accelerator_dtype: str
    trained: dict[str, int]
    measured: dict[str, Measurement] = field(default_factory=dict)
    imported: int = 0

    def measure(self, on_program: OnProgram = lambda done, total, note: None) -> None:
        """Compiles each method's steps, and keeps what the compiler says.

        Raises:
            UserError: the work does not fit the context or the mesh.
        """
        config, on_cpu, tokenizer = self.checkpoint.config, self.platform == "cpu", 0
        if on_cpu:
            folder = find_folder(self.checkpoint.path, weights=False)
            self.imported, tokenizer = measure_imports_and_tokenizer(
                folder, has_tokenizer=self.checkpoint.tokenizer
            )
        for name, method in self.methods.items():
            programs = build_programs(method, self.work, jnp.dtype(self.dtype), self.mesh)

            def report(done: int, total: int, note: str, name: str = name) -> None:
                on_program(done, total, f"{name}: {note}")

            measurement = measure(programs, config, report)
            if on_cpu:
                adds_modules = isinstance(method, TuningMethod) and _adds_modules(method, config)
                process = estimate_process_bytes(
                    config.num_layers, tokenizer, adds_modules=adds_modules
                )
                measurement = replace(measurement, process=process // self.devices)
            self.measured[name] = measurement

    @property
    def devices(self) -> int:
        """How many there are in the mesh."""
        return 1 if self.mesh is None else self.mesh.size

    def verdicts(self, name: str) -> list[dict[str, Any]]:
        """Whether a method fits, accelerator by accelerator, this machine last."""
        measurement = self.measured[name]
        arrays = replace(measurement, process=0)  # an accelerator's host holds the process
        verdicts = [
            check_fit(arrays, accelerator, self.accelerator_dtype, self.work)
            for accelerator in ACCELERATORS
        ]
        if not self.topology:
            here = describe_local_accelerator(self.devices)
            verdicts.append(check_fit(measurement, here, self.dtype, self.work))
        return verdicts

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; bytes are those of one device."""
        result = self.checkpoint.to_dict() | {"trained_parameters": self.trained}
        if not self.measured:
            return result
        methods = {}
        for name, measurement in self.measured.items():
            memory = measurement.memory()
            methods[name] = {
                "bytes": memory.parts,
                "total_bytes": memory.total,
                "largest": memory.largest,
                "fullest_during": memory.moment,
                "compiled_layers": list(measurement.depths),
                "verdicts": self.verdicts(name),
            }
        mesh = {} if self.mesh is None else dict(self.mesh.shape)
        return result | {
            "platform": self.platform,
            "topology": self.topology or None,
            "mesh": mesh,
            "devices": self.devices,
            "dtype": self.dtype,
            "imported_bytes": self.imported,
            "work": vars(self.work),
            "memory": methods,
        }

    @property
    def platform(self) -> str:
        """The platform that the programs were compiled for."""
        return "tpu" if self.topology else jax.default_backend()


def inspect(
    path: str | Path,
    methods: Sequence[str] = (),
    *,
    work: Workload | None = None,
    mesh: str | None = None,
    dtype: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    context_length: int | None = None,
) -> Inspection:
    """Reads ``config.json`` and the headers of the weights; ``Inspection.measure`` compiles.

    Args:
        path: a folder with a ``config.json`` (the weights may be absent), "embedded", or a name on
            the hub, of which only the small files are fetched.
        methods: names of rungs; by default those that say so (Method.inspected_by_default).
        mesh: see mesh.read_mesh.
        dtype: of the frozen weights. By default float32 on a CPU, elsewhere what is stored.
        overrides: options of the methods, as in a configuration file: ``{"rank": 16}``.
        context_length: see load_pretrained.

    Raises:
        UserError: for whatever the user can mend.
    """
    work = work or Workload()
    _check_work(work)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype: {dtype!r}{nearest(dtype, DTYPES)}; expected {', '.join(DTYPES)}")
    names = methods or [name for name in METHODS if METHODS[name].inspected_by_default]
    chosen = {name: _check_options(name, overrides or {}) for name in names}
    devices, topology = read_mesh(mesh)  # first: once JAX has started, a CPU is one device
    checkpoint = read_checkpoint(path, context_length)
    on_cpu = not topology and jax.default_backend() == "cpu"
    stored = checkpoint.dtype if checkpoint.dtype in DTYPES else "float32"
    return Inspection(
        checkpoint=checkpoint,
        methods=chosen,
        work=work,
        mesh=devices,
        topology=topology,
        dtype=dtype or ("float32" if on_cpu else stored),
        accelerator_dtype=dtype or stored,
        trained=_count_trained(checkpoint, chosen),
    )


def _adds_modules(method: TuningMethod, config: DecoderConfig) -> bool:
    """Whether a method adds something to a decoder's layers, of which few tell."""
    try:
        shallow = keep_first_layers(config, min(MIN_DEPTH, config.num_layers))
        return trace_tuning(shallow, method, jnp.float32).adds_modules
    except UserError:  # a part that only the whole decoder has
        return trace_tuning(config, method, jnp.float32).adds_modules


def _count_trained(checkpoint: Checkpoint, chosen: Mapping[str, Method]) -> dict[str, int]:
    """Parameters that each tuning method trains, with its defaults where it was not chosen.

    A method that was not chosen and cannot do without options, or that does not fit this decoder,
    is left out.

    Raises:
        UserError: a chosen method does not fit the decoder.
    """
    counts = {}
    for name, kind in METHODS.items():
        try:
            method = chosen[name] if name in chosen else kind()
            if isinstance(method, TuningMethod):
                counts[name] = count_trained(method, checkpoint.config)
        except (UserError, pydantic.ValidationError):
            if name in chosen:
                raise
    return counts


def count_trained(method: TuningMethod, config: DecoderConfig) -> int:
    """The parameters that a method trains; it is asked about shallow decoders where that is enough.

    Raises:
        UserError: the method does not fit the decoder.
    """

    def count(shape: DecoderConfig) -> dict[str, int]:
        trainable = trace_tuning(shape, method, jnp.float32).trainable
        return {"trained": sum(leaf.size for leaf in jax.tree.leaves(trainable))}

    names_layers = isinstance(method, FineTuning) and not _names_parts(method.trainable)
    return (count(config) if names_layers else count_by_depth(count, config))["trained"]


def _names_parts(trainable: str | list[str]) -> bool:
    """Whether all parts have a name, such as attention: no number of a layer, no expression."""
    return all(part in PARTS for part in ([trainable] if isinstance(trainable, str) else trainable))


def _check_options(name: str, overrides: Mapping[str, Any]) -> Method:
    """A method with its options checked."""
    return validate(METHODS.find(name, "--method"), overrides, f"--method {name}")


def _check_work(work: Workload) -> None:
    """Raises UserError for the first size that makes no sense."""
    for key, value in vars(work).items():
        least = 0 if key == "prefix" else 1
        if value is not None and value < least:
            raise UserError(f"--{key}: {value}; expected at least {least}")
    if work.answer >= work.length:
        raise UserError(
            f"--answer: {work.answer} tokens of an example of {work.length}; expected fewer, "
            "so that a question is left"
        )
