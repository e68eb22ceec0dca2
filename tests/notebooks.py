"""Runs the notebooks of colab/ from top to bottom, in their fast mode.

They share one kernel: starting Python and importing JAX take longer than what they do. Each begins
with an empty namespace.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from xla_flags import ONE_DEVICE

__all__ = ["COLAB", "run_notebook", "shown", "start_kernel"]

COLAB = Path(__file__).resolve().parents[1] / "colab"


@contextmanager
def start_kernel(folder: Path) -> Iterator[KernelManager]:
    """A kernel in fast mode, whose settings lie in ``folder``."""
    manager = KernelManager()
    settings = {"FAST": "1", "IPYTHONDIR": str(folder / "ipython"), "XLA_FLAGS": ONE_DEVICE}
    manager.start_kernel(env={**os.environ, **settings})
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)


def run_notebook(kernel: KernelManager, name: str, output: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; it is started in the folder that it lies in."""
    begin = f"""%reset -f
import os
os.chdir({str(COLAB)!r})
os.environ["OUTPUT_DIR"] = {str(output)!r}
%reset -f"""
    first = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(begin)])
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    for part in (first, notebook):
        NotebookClient(part, km=kernel, timeout=1200).execute()
    return notebook


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Everything of one MIME type that the cells show, printed text included."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and kind == "text/plain":
                texts.append(output.text)
            elif kind in output.get("data", {}):
                texts.append(output.data[kind])
    return texts
