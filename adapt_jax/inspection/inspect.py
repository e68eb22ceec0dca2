"""Puts together what a checkpoint is, what each method would train, and what a device holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from adapt_jax.inspection.accelerators import ACCELERATORS, here, verdict
from adapt_jax.inspection.checkpoint import Checkpoint, read_checkpoint
from adapt_jax.inspection.memory import Measured, measure
from adapt_jax.inspection.mesh import read_mesh
from adapt_jax.inspection.process import imported_and_tokenizer, process_bytes
from adapt_jax.inspection.programs import Workload, build, trace_tuning
from adapt_jax.methods.base import Method, TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.hf_folder import find_folder
from adapt_jax.utils.config import checked
from adapt_jax.utils.errors import UserError, nearest

DTYPES = ("float32", "bfloat16", "float16")
OnProgram = Callable[[int, int, str], None]


@dataclass
class Inspection:
    """What is known of a checkpoint before anything is loaded.

    Attributes:
        trained: parameters that each tuning method would train.
        dtype: of the frozen weights, as compiled.
        elsewhere: of the frozen weights, on an accelerator.
        measured: by method, once ``measure`` has run.
        imported: on a CPU, resident bytes of a process that has done nothing but import; they are
            in no part.
    """

    checkpoint: Checkpoint
    methods: dict[str, Method]
    work: Workload
    mesh: Mesh | None
    topology: str
    dtype: str
    elsewhere: str
    trained: dict[str, int]
    measured: dict[str, Measured] = field(default_factory=dict)
    imported: int = 0

    def measure(self, on_program: OnProgram = lambda done, total, note: None) -> None:
        """Compiles each method's steps, and keeps what the compiler says.

        Raises:
            UserError: the work does not fit the context or the mesh.
        """
        for name, measured in self.each(on_program):
            self.measured[name] = measured

    def each(self, on_program: OnProgram) -> Iterator[tuple[str, Measured]]:
        """Method by method."""
        tokenizer, layers = 0, self.checkpoint.config.num_layers
        if self.platform == "cpu":
            folder = find_folder(self.checkpoint.path, weights=False)
            known = self.checkpoint.tokenizer
            self.imported, tokenizer = imported_and_tokenizer(folder, tokenizer=known)
        for name, method in self.methods.items():
            programs = build(method, self.work, jnp.dtype(self.dtype), self.mesh)

            def told(done: int, total: int, note: str, name: str = name) -> None:
                on_program(done, total, f"{name}: {note}")

            found = measure(programs, self.checkpoint.config, told)
            process = 0
            if self.platform == "cpu":
                twice = (
                    isinstance(method, TuningMethod)
                    and trace_tuning(self.checkpoint.config, method, jnp.float32).adds_modules
                )
                process = process_bytes(layers, tokenizer, adds_modules=twice)
            yield name, replace(found, process=process // self.devices)

    @property
    def devices(self) -> int:
        """How many there are in the mesh."""
        return 1 if self.mesh is None else self.mesh.size

    def verdicts(self, name: str) -> list[dict[str, Any]]:
        """Accelerator by accelerator, this machine last."""
        measured = self.measured[name]
        alone = replace(measured, process=0)  # there it lies in the host's memory
        found = [verdict(alone, one, self.elsewhere, self.work) for one in ACCELERATORS]
        if not self.topology:
            found.append(verdict(measured, here(self.devices), self.dtype, self.work))
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; bytes are those of one device."""
        told = self.checkpoint.to_dict() | {"trained_parameters": self.trained}
        if not self.measured:
            return told
        memory = {}
        for name, measured in self.measured.items():
            found = measured.memory()
            memory[name] = {
                "bytes": found.parts,
                "total_bytes": found.total,
                "largest": found.largest,
                "fullest_during": found.moment,
                "compiled_layers": list(measured.depths),
                "verdicts": self.verdicts(name),
            }
        mesh = {} if self.mesh is None else dict(self.mesh.shape)
        return told | {
            "platform": self.platform,
            "topology": self.topology or None,
            "mesh": mesh,
            "devices": self.devices,
            "dtype": self.dtype,
            "imported_bytes": self.imported,
            "work": vars(self.work),
            "memory": memory,
        }

    @property
    def platform(self) -> str:
        """What was compiled for."""
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
    check_work(work)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype: {dtype!r}{nearest(dtype, DTYPES)}; expected {', '.join(DTYPES)}")
    names = methods or [name for name in METHODS if METHODS[name].inspected_by_default]
    chosen = {name: options_of(name, overrides or {}) for name in names}
    devices, topology = read_mesh(mesh)  # first: once JAX has started, a CPU is one device
    checkpoint = read_checkpoint(path, context_length)
    on_cpu = not topology and jax.default_backend() == "cpu"
    stored = checkpoint.dtype if checkpoint.dtype in DTYPES else "float32"
    trained = {}
    for name, kind in METHODS.items():
        if issubclass(kind, TuningMethod):
            method = chosen.get(name) or kind()
            assert isinstance(method, TuningMethod)
            trainable = trace_tuning(checkpoint.config, method, jnp.float32).trainable
            trained[name] = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    return Inspection(
        checkpoint,
        chosen,
        work,
        devices,
        topology,
        dtype or ("float32" if on_cpu else stored),
        dtype or stored,
        trained,
    )


def options_of(name: str, overrides: Mapping[str, Any]) -> Method:
    """A rung with its options checked."""
    return checked(METHODS.find(name, "--method"), overrides, f"--method {name}")


def check_work(work: Workload) -> None:
    """Refuses sizes that make no sense, one line for the first."""
    for key, value in vars(work).items():
        least = 0 if key == "prefix" else 1
        if value is not None and value < least:
            raise UserError(f"--{key}: {value}; expected at least {least}")
    if work.answer >= work.length:
        raise UserError(
            f"--answer: {work.answer} tokens of an example of {work.length}; expected fewer, "
            "so that a question is left"
        )
