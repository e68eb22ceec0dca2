"""The scripts in examples/ run as they are and print what they promise."""

import csv
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(tmp_path: Path, monkeypatch, capsys):
    """Runs a script in an empty folder; returns what it printed, and the folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> tuple[str, Path]:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out, tmp_path / "runs"

    return run


def test_the_ladder_from_python(run_example):
    shown, runs = run_example("ladder.py")
    assert "chain_of_thought says: 5" in shown
    assert (runs / "example_ladder" / "comparison.json").is_file()


def test_a_task_of_ones_own_from_a_csv_file(run_example):
    shown, runs = run_example("own_task.py")
    assert "zero_shot" in shown and "few_shot" in shown and "%" in shown
    with (runs / "example_own_task" / "messages.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12


def test_self_consistency_shows_its_votes(run_example):
    shown, _ = run_example("self_consistency.py")
    assert "votes: {" in shown and "answer: " in shown and len(shown.splitlines()) == 1 + 8 + 2


def test_prompt_tuning_leaves_as_a_peft_adapter(run_example):
    shown, runs = run_example("prompt_tuning_to_peft.py")
    assert "adapter_config.json" in shown and "PeftModel" in shown
    exported = runs / "example_prompt_tuning" / "peft"
    assert (exported / "adapter_model.safetensors").is_file()


def test_every_example_is_tested():
    tested = (
        Path(__file__).read_text() + (Path(__file__).parent / "test_outside_method.py").read_text()
    )
    assert all(path.name in tested for path in EXAMPLES.glob("*.py"))
