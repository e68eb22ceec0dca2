"""Which accelerators a run fits on, and what would make it fit."""

from dataclasses import dataclass
from typing import Any

import jax

from adapt_jax.inspection.memory import Measured, Memory
from adapt_jax.inspection.programs import Workload
from adapt_jax.sampling.memory import free_bytes

GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """One device, and the bytes that a program may use of it.

    ``preallocated`` is the share of it that JAX takes at the start where nobody says otherwise
    (XLA_PYTHON_CLIENT_MEM_FRACTION).
    """

    name: str
    usable: int
    preallocated: float = 1.0


def gib(size: float) -> int:
    """GiB in bytes."""
    return round(size * GIB)


# What XLA reports as usable (TPU), or nvidia-smi as total (GPU): less than the name says.
ACCELERATORS = (
    Accelerator("TPU v5e (16 GB)", gib(15.75)),
    Accelerator("TPU v6e (32 GB)", gib(31.25)),
    Accelerator("TPU v5p (95 GB)", gib(95.0)),
    Accelerator("T4 (16 GB)", gib(14.7), 0.75),
    Accelerator("L4 (24 GB)", gib(22.0), 0.75),
    Accelerator("RTX 4090 (24 GB)", gib(23.5), 0.75),
    Accelerator("A100 (40 GB)", gib(39.4), 0.75),
    Accelerator("A100 (80 GB)", gib(79.0), 0.75),
    Accelerator("H100 (80 GB)", gib(79.0), 0.75),
)
WAYS = (2, 4, 8, 16, 32, 64, 128, 256)  # of fsdp that are tried
SLACK = 1.1  # what is not divided evenly
GROWING = ("activations", "batch", "cache", "questions")  # parts that grow with the batch


def here(devices: int) -> Accelerator:
    """This machine: a device's share of the memory; on a CPU all devices share the host's."""
    kind = jax.local_devices()[0].device_kind
    ways = devices if jax.default_backend() == "cpu" else 1
    return Accelerator(f"here ({kind}, what is free)", free_bytes() // ways)


def verdict(
    measured: Measured, accelerator: Accelerator, dtype: str, work: Workload
) -> dict[str, Any]:
    """Whether it fits, as plain JSON; where it does not, the largest part and what would help.

    Args:
        dtype: of the frozen weights there.
    """
    memory, usable = measured.memory(dtype), accelerator.usable
    told: dict[str, Any] = {
        "device": accelerator.name,
        "usable_bytes": usable,
        "needed_bytes": memory.total,
        "fits": memory.total <= usable,
    }
    if not told["fits"]:
        told["largest"] = memory.largest
        told["helps"] = helps(measured, memory, usable, dtype, work)
    elif memory.total > usable * accelerator.preallocated:
        told["helps"] = ["XLA_PYTHON_CLIENT_MEM_FRACTION=.95"]
    return told


def helps(measured: Measured, memory: Memory, usable: int, dtype: str, work: Workload) -> list[str]:
    """What would make it fit, by arithmetic on the parts: nothing is compiled for it."""
    found = []
    moving = sum(memory.parts.get(part, 0) for part in GROWING)
    size, option = (
        (work.max_concurrent_sequences, "max-concurrent-sequences")
        if "cache" in memory.parts
        else (work.batch, "batch")
    )
    fitting = int(size * (usable - memory.total + moving) / moving)
    if fitting >= 1:
        found.append(f"--{option} {fitting}")
    ways = next((n for n in WAYS if n <= size and memory.total / n * SLACK <= usable), None)
    if ways is not None:
        found.append(f"--mesh fsdp={ways}")
    if dtype == "float32" and measured.memory("bfloat16").total <= usable:
        found.append("--dtype bfloat16")
    return found
