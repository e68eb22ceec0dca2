"""Whether transformers may import PyTorch. Reading a tokenizer needs none of it.

Where PyTorch is installed, transformers imports it with its first tokenizer, which takes two to
three seconds of processor time. A command that never computes with PyTorch says so beforehand.
"""

import os
import sys

__all__ = ["import_transformers", "leave_out_torch"]

_left_out = False


def leave_out_torch() -> None:
    """From now on ``import_transformers`` hides PyTorch. In a process of this package alone."""
    global _left_out
    _left_out = True


def import_transformers() -> None:
    """Imports transformers; without PyTorch, if that is left out and nobody has imported either.

    transformers looks once for PyTorch and remembers what it found. Whoever imports PyTorch itself
    afterwards gets it.
    """
    if not _left_out or "torch" in sys.modules or "transformers" in sys.modules:
        return
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that it did not find PyTorch
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's sign of no such module
    try:
        from transformers.utils import is_torch_available

        is_torch_available()
    finally:
        del sys.modules["torch"]
