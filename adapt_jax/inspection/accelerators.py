"""Which accelerators a run fits on, and what would make it fit."""

from dataclasses import dataclass
from typing import Any

import jax

from adapt_jax.inspection.memory import Measurement, Memory
from adapt_jax.inspection.workload import Workload
from adapt_jax.sampling.memory import free_bytes

__all__ = ["ACCELERATORS", "Accelerator", "check_fit", "describe_local_accelerator"]

GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """One device.

    Attributes:
        usable: bytes that a program may use.
        preallocated: the share of them that JAX takes at the start by default
            (XLA_PYTHON_CLIENT_MEM_FRACTION).
    """

    name: str
    usable: int
    preallocated: float = 1.0


def _gib_to_bytes(size: float) -> int:
    """GiB in bytes."""
    return round(size * GIB)


# What XLA reports as usable (TPU), or nvidia-smi as total (GPU): less than the name says.
ACCELERATORS = (
    Accelerator("TPU v5e (16 GB)", _gib_to_bytes(15.75)),
    Accelerator("TPU v6e (32 GB)", _gib_to_bytes(31.25)),
    Accelerator("TPU v5p (95 GB)", _gib_to_bytes(95.0)),
    Accelerator("T4 (16 GB)", _gib_to_bytes(14.7), 0.75),
    Accelerator("L4 (24 GB)", _gib_to_bytes(22.0), 0.75),
    Accelerator("RTX 4090 (24 GB)", _gib_to_bytes(23.5), 0.75),
    Accelerator("A100 (40 GB)", _gib_to_bytes(39.4), 0.75),
    Accelerator("A100 (80 GB)", _gib_to_bytes(79.0), 0.75),
    Accelerator("H100 (80 GB)", _gib_to_bytes(79.0), 0.75),
)
FSDP_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)  # that are tried
UNEVEN = 1.1  # allowance for what is not divided evenly
GROWS_WITH_BATCH = ("batch", "cache", "questions")  # and with these the activations


def describe_local_accelerator(devices: int) -> Accelerator:
    """One device of this machine; on a CPU all devices share the memory of the host."""
    kind = jax.local_devices()[0].device_kind
    sharing = devices if jax.default_backend() == "cpu" else 1
    return Accelerator(f"here ({kind}, what is free)", free_bytes() // sharing)


def check_fit(
    measurement: Measurement, accelerator: Accelerator, dtype: str, work: Workload
) -> dict[str, Any]:
    """Whether it fits, as plain JSON; where it does not, the largest part and what would help.

    Args:
        dtype: of the frozen weights there.
    """
    memory, usable = measurement.memory(dtype), accelerator.usable
    verdict: dict[str, Any] = {
        "device": accelerator.name,
        "usable_bytes": usable,
        "needed_bytes": memory.total,
        "fits": memory.total <= usable,
    }
    if not verdict["fits"]:
        verdict["largest"] = memory.largest
        verdict["suggestions"] = _suggest(measurement, usable, dtype, work)
    elif memory.total > usable * accelerator.preallocated:
        verdict["suggestions"] = ["XLA_PYTHON_CLIENT_MEM_FRACTION=.95"]
    return verdict


def _suggest(measurement: Measurement, usable: int, dtype: str, work: Workload) -> list[str]:
    """Changes that would make it fit, by arithmetic on the parts: nothing is compiled for it."""
    suggestions = []
    moments = measurement.moments(dtype)
    size, option = work.batch, "batch"
    if any("cache" in moment.parts for moment in moments):
        size, option = work.max_concurrent_sequences, "max-concurrent-sequences"
    # a smaller batch, with which every moment fits
    fitting = min(_find_fitting_size(moment, size, usable) for moment in moments)
    if fitting >= 1:
        suggestions.append(f"--{option} {fitting}")
    # more devices: everything is divided among them
    needed = max(moment.total for moment in moments)
    fits = (n for n in FSDP_SIZES if n <= size and needed / n * UNEVEN <= usable)
    if (devices := next(fits, None)) is not None:
        suggestions.append(f"--mesh fsdp={devices}")
    if dtype == "float32" and measurement.memory("bfloat16").total <= usable:
        suggestions.append("--dtype bfloat16")
    return suggestions


def _find_fitting_size(moment: Memory, size: int, usable: int) -> int:
    """The largest batch, at most ``size``, with which a moment fits; below 1 where none does."""
    if moment.total <= usable:
        return size
    growing = sum(moment.parts.get(part, 0) for part in GROWS_WITH_BATCH)
    if not growing:  # such as merging, which knows no batch
        return 0
    growing += moment.parts.get("activations", 0)
    return int(size * (usable - moment.total + growing) / growing)
