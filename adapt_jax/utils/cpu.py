"""Tricks for CPUs: all of them are here, each with the measurement that asks for it."""

import contextlib
import ctypes
import functools
import gc
import math
import mmap
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.utils.distributed import shares_questions

if TYPE_CHECKING:
    import numpy as np

# Queries are attended in chunks, each against the keys up to its end. That is half the work, and a
# chunk's scores stay in the cache: a training step of 32 x 256 tokens took 0.08 s for each layer
# of the embedded decoder, and 0.33 s without chunks.
MIN_QUERIES_PER_CHUNK = 128
MAX_QUERY_CHUNKS = 8

# Queries of a key/value head below which its own keys, [B, K, S, H] in float32, are the left factor
# of the scores. Attention to 160 own keys of 96 rows takes 0.4 of the time in SmolLM2-135M.
FEW_QUERIES = 8

# Tokens of a microbatch, at least: what a step works on then stays closer to the cache. Half the
# memory of a whole step, and up to a tenth less time (RESULTS.md).
MIN_MICROBATCH_TOKENS = 2048

# Bytes of a training state up to which a checkpoint is written from a copy, beside the training.
# A CPU's files are written from the very memory that the next step overwrites, and a copy of a
# larger state would double what is held: the next step waits for it.
MAX_CHECKPOINT_COPY_BYTES = 1 << 26

# Of the cross-entropy: targets of a chunk, entries of a block of the vocabulary, and numbers that
# wait for the gradient of the output matrix. A block then stays in the cache between the product
# that makes its logits and the one that takes their gradient: a quarter less time.
MAX_CHUNK_TARGETS, MAX_BLOCK_ENTRIES, MAX_WAITING_NUMBERS = 1024, 640, 3 * 2**22

# YNNPACK's large products of two threads are slower than Eigen's; what it fuses with sums is not.
STEP_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

# New objects after which Python looks for garbage. Imports and traces make millions that stay;
# looking through them after every 700, Python's own number, took 0.7 s of a command's 7.4.
OBJECTS_BEFORE_COLLECTION = 10_000

COMPILED = "/jax/core/compile/backend_compile_duration"  # the event that JAX records
SECONDS_WORTH_TRIMMING = 0.2  # a shorter compilation leaves little memory behind


@functools.cache
def trim_memory_after_compilation() -> None:
    """Gives freed memory back to the system after each compilation from now on."""
    import jax

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED and duration_secs > SECONDS_WORTH_TRIMMING:
            trim_memory()

    jax.monitoring.register_event_duration_secs_listener(listen)


def trim_memory() -> None:
    """Gives freed memory back to the system; glibc keeps it, and a compilation frees 0.3 GiB."""
    if sys.platform == "linux" and hasattr(system := ctypes.CDLL(None), "malloc_trim"):
        system.malloc_trim(0)


def choose_platform() -> None:
    """Tells JAX to use the CPU where there is no accelerator.

    An installed libtpu would otherwise look for its TPU, which takes long.
    """
    devices = ("accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in devices):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # PyTorch is not needed


@functools.cache
def describe_processor() -> str:
    """What compiled code depends on: the processor, and how many of its cores are used."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")
        names = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
        arm = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")
        pairs = (line.partition(":") for line in first.splitlines())
        lines = [f"{key}:{value}" for key, _, value in pairs if key.strip() in (*names, *arm)]
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return "\n".join([platform.machine(), *lines, str(len(cores)), os.environ.get("NPROC", "")])


def collect_garbage_less_often() -> None:
    """Makes Python look for garbage less often, for the rest of the process."""
    if 0 < gc.get_threshold()[0] < OBJECTS_BEFORE_COLLECTION:
        gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *gc.get_threshold()[1:])


def run_by_platform(one_cpu: Callable[..., Any], other: Callable[..., Any], *arrays: Any) -> Any:
    """``one_cpu(*arrays)`` where a single CPU device computes, else ``other(*arrays)``.

    A loop over pieces that fit in the cache helps a CPU alone: accelerators take all at once, and
    several devices share what is not cut. A host that compiles for another platform gets that
    platform's function.
    """
    import jax

    # each process answers its share of the questions on its own devices
    count = jax.local_device_count() if shares_questions() else jax.device_count()
    if count > 1:
        return other(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=one_cpu, default=other)


@functools.cache
def step_compiler_options(dtype: Any) -> dict[str, str]:
    """XLA's options for a training step on a CPU: 4 to 7 % less time on two cores (RESULTS.md).

    Empty on another platform, where this XLA does not know them, and for steps that compute in
    bfloat16: Eigen has no products for it, and they took 1.5 times as long.
    """
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "cpu" or dtype == jnp.bfloat16:
        return {}
    try:
        jax.jit(jnp.negative, compiler_options=STEP_COMPILER_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return STEP_COMPILER_OPTIONS


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 products; True where it is not known."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return any(one in flags for one in ("avx512_bf16", "amx_bf16", " bf16", "svebf16"))


# Reading weights: measured by benchmarks/loading.py, see "Loading" in benchmarks/RESULTS.md.

NUMBERS_PER_STRIP = 1 << 19  # that a thread reads at a time: they stay in a core's cache
TRANSPOSE_BLOCK = 256  # rows and columns that are transposed at a time
MADV_POPULATE_WRITE = 23  # of madvise(2), Linux 5.14


@functools.cache
def _load_madvise() -> Any:
    """The system's madvise; mmap's own method keeps Python's lock meanwhile."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise


def allocate_aligned(shape: tuple[int, ...], dtype: "np.dtype") -> "np.ndarray":
    """New memory that begins where XLA wants it to, so that a CPU device takes it uncopied.

    It is asked of the system itself: NumPy would ask for huge pages, which a virtual machine may
    take twice as long to give. Pages that could be shared take longer, too.
    """
    import numpy as np

    size = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)[:size].view(dtype).reshape(shape)


def prefault(target: "np.ndarray") -> bool:
    """Asks for the pages of new memory at once: one by one, as they are touched, they take longer.

    They are still in the cache when they are written. Returns whether the system did so; where it
    does not know how, nothing is lost.
    """
    if not target.flags.c_contiguous:
        return False
    first = -(-target.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    length = target.ctypes.data + target.nbytes - first
    return length > 0 and _load_madvise()(first, length, MADV_POPULATE_WRITE) == 0


def copy_into(target: "np.ndarray", source: "np.ndarray") -> None:
    """Copies an array of the same shape, which may have another dtype or be transposed.

    Transposed blocks go by way of a small array whose rows do not begin a power of two apart,
    because a cache holds few of those at once.
    """
    import numpy as np

    if source.ndim < 2 or source.strides[-1] == source.itemsize:
        target[...] = source
        return
    size = TRANSPOSE_BLOCK
    scratch = np.empty((size, size + 64 // source.itemsize), source.dtype)
    for expert in np.ndindex(source.shape[:-2]):
        for row in range(0, source.shape[-2], size):
            for column in range(0, source.shape[-1], size):
                here = (*expert, slice(row, row + size), slice(column, column + size))
                transposed = source[here].T
                block = scratch[: transposed.shape[0], : transposed.shape[1]]
                block[...] = transposed
                target[here] = block.T
