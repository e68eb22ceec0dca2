"""The notebooks of colab/ run from top to bottom and show what they promise, in their fast mode."""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from notebooks import COLAB, run_notebook, shown, start_kernel

NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    with start_kernel(tmp_path_factory.mktemp("kernel")) as manager:
        yield manager


def list_measured_rungs(folder: Path) -> list[str]:
    """The rungs of a comparison that were measured."""
    rungs = json.loads((folder / "comparison.json").read_text())["rungs"]
    return [rung["method"] for rung in rungs if rung["status"] == "done"]


def test_the_ladder(kernel: KernelManager, tmp_path: Path) -> None:
    notebook = run_notebook(kernel, "ladder", tmp_path)
    climbed = ["few_shot", "chain_of_thought", "self_consistency", "prompt_tuning"]
    assert list_measured_rungs(tmp_path / "ladder") == climbed
    assert any("chain_of_thought" in table for table in shown(notebook, "text/html"))
    assert len(shown(notebook, "image/png")) == 2
    assert (tmp_path / "tuned" / "adaptation" / "adaptation.json").is_file()
    said = "\n".join(shown(notebook, "text/plain"))
    for label in ("soft prompt: ", "self-consistency: ", "one reasoning: ", "votes: {"):
        assert f"\n{label}" in said


def test_prompt_tuning_on_a_csv(kernel: KernelManager, tmp_path: Path) -> None:
    notebook = run_notebook(kernel, "prompt_tuning_csv", tmp_path)
    assert list_measured_rungs(tmp_path) == ["zero_shot", "prompt_tuning"]
    assert (tmp_path / "messages.csv").read_text().count("\n") == 1 + 8 * 9
    said = "\n".join(shown(notebook, "text/plain"))
    assert "{'train': 12, 'development': 6, 'test': 6}" in said
    assert "of 6 are wrong" in said and "\nanswer: " in said
    assert "adapter_config.json" in said
    assert len(shown(notebook, "image/png")) == 1
    assert any("prompt_tuning" in table for table in shown(notebook, "text/html"))


def test_self_consistency(kernel: KernelManager, tmp_path: Path) -> None:
    notebook = run_notebook(kernel, "self_consistency", tmp_path)
    assert list_measured_rungs(tmp_path / "vote") == ["chain_of_thought", "self_consistency"]
    assert len(shown(notebook, "image/png")) == 2
    said = "\n".join(shown(notebook, "text/plain"))
    assert "\nvotes: {" in said and "candidates saved\n        1.0" in said


def test_instruction_tuning_and_export(kernel: KernelManager, tmp_path: Path) -> None:
    notebook = run_notebook(kernel, "instruction_tuning", tmp_path)
    assert list_measured_rungs(tmp_path / "comparison") == ["zero_shot", "instruction_tuning"]
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    said = "\n".join(shown(notebook, "text/plain"))
    assert "held out: ['digits', 'owner', 'reverse', 'sequence', 'smaller']" in said
    assert "exported: [" in said and "\nanswer:" in said
    assert len(shown(notebook, "image/png")) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = notebook.cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_all_notebooks_install_alike() -> None:
    first = {nbformat.read(path, as_version=4).cells[2].source for path in NOTEBOOKS}
    assert len(NOTEBOOKS) == 4 and len(first) == 1
