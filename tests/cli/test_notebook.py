"""colab/ladder.ipynb runs from top to bottom and shows what it promises, in its fast mode."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from helpers import ONE_DEVICE
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "colab" / "ladder.ipynb"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(output: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; it is started in the folder that it lies in."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = {"FAST": "1", "OUTPUT_DIR": str(output), "IPYTHONDIR": str(output / "ipython")}
    client = NotebookClient(
        notebook, timeout=1200, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    return client.execute(env={**os.environ, **settings, "XLA_FLAGS": ONE_DEVICE})


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


def test_it_climbs_the_ladder(executed: nbformat.NotebookNode, output: Path) -> None:
    rungs = json.loads((output / "ladder" / "comparison.json").read_text())["rungs"]
    names = [rung["method"] for rung in rungs if rung["status"] == "done"]
    assert names == ["few_shot", "chain_of_thought", "self_consistency", "prompt_tuning"]


def test_it_shows_the_table_and_the_plots(executed: nbformat.NotebookNode) -> None:
    assert any("chain_of_thought" in table for table in shown(executed, "text/html"))
    assert len(shown(executed, "image/png")) == 2


def test_it_tunes_and_asks(executed: nbformat.NotebookNode, output: Path) -> None:
    assert (output / "tuned" / "adaptation" / "adaptation.json").is_file()
    said = "\n".join(shown(executed, "text/plain"))
    for label in ("soft prompt: ", "self-consistency: ", "one reasoning: ", "votes: {"):
        assert f"\n{label}" in said


def test_it_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
