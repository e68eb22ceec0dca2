"""Memory of a process on a CPU besides arrays: tokenizer, compiled code, rest of compiling."""

import gc
from pathlib import Path

from adapt_jax.pretrained.tokenizer_folder import read_tokenizer

__all__ = ["estimate_process_bytes", "measure_imports_and_tokenizer"]

# What is in memory before the first step and besides its arrays, as a constant and a slope over the
# decoder's layers; measured over whole commands (benchmarks/inspection.py, RESULTS.md).
RUNTIME_BYTES = 96 << 20  # Python objects, threads and their buffers, the task's texts
BYTES_PER_LAYER = 14 << 20  # traced, compiled and loaded code; with added modules, twice that


def _read_resident_bytes() -> int:
    """Resident bytes of this process; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS")), 0)


def estimate_process_bytes(layers: int, tokenizer: int, *, adds_modules: bool) -> int:
    """Memory of a command that trains or decodes, besides its arrays and its imports.

    Args:
        tokenizer: bytes of it.
        adds_modules: whether the method adds modules to the layers, such as LoRA's factors.
    """
    return RUNTIME_BYTES + layers * BYTES_PER_LAYER * (2 if adds_modules else 1) + tokenizer


def measure_imports_and_tokenizer(folder: Path, *, has_tokenizer: bool) -> tuple[int, int]:
    """Resident bytes of a process that has imported what a run imports; and of the tokenizer.

    Measured in this very process, which imports the same.
    """
    import jax.numpy as jnp
    from transformers import AutoTokenizer  # noqa: F401  (as a run does)

    # all that a command imports but the comparison itself, which adds 1 MiB
    import adapt_jax.evaluation.report.picture  # noqa: F401
    from adapt_jax.methods.registry import METHODS

    assert len(METHODS)  # looked up, so that they are imported
    jnp.zeros(1).block_until_ready()
    gc.collect()
    before = _read_resident_bytes()
    if not has_tokenizer:
        return before, 0
    tokenizer = read_tokenizer(folder)
    after = _read_resident_bytes()
    del tokenizer
    return before, max(0, after - before)
