"""XLA_FLAGS with which the tests compile: they compile much and compute little.

XLA's passes are those of every run; what turns their result into machine code does less. LLVM
without optimisation takes 0.6 of the time, and the older emitters of LLVM's code, which XLA of
JAX 0.10 still has, 0.27 of that (a gradient of two layers: 0.82 s, then 0.22 s). Machine code in
one piece, where XLA makes up to 32 for as many threads, takes three quarters of the time.

Processes that compile as a user's do: compare (cli/test_without_extras.py), tune and inspect
(inspection/test_inspection.py).
"""

from importlib.metadata import version

__all__ = ["COMPILE_LESS", "ONE_DEVICE"]

COMPILE_LESS = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    COMPILE_LESS.append("--xla_cpu_use_fusion_emitters=false")
    COMPILE_LESS.append("--xla_cpu_parallel_codegen_split_count=1")
ONE_DEVICE = " ".join(COMPILE_LESS)  # of a process with one device
