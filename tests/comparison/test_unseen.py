"""Instruction tuning on a mixture of tasks, judged on a task that it leaves out, by `compare`."""

import json
from pathlib import Path

import pytest

from adapt_jax.comparison.compare import Comparison, compare
from adapt_jax.evaluation.report.text import describe_notes

TRAINING = {"steps": 2, "batch_size": 4, "warmup_steps": 0}


def write_tasks(folder: Path) -> None:
    """Sums, and sentences as free text that are scored by words."""
    sums = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(16)]
    says = [{"question": f"Greet number {n}.", "answer": f"Good day,\n{n}"} for n in range(8)]
    for name, rows, rest in (
        ("sums", sums, {}),
        ("greetings", says, {"answer_parser": "free_text", "scorer": "token_f1"}),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "name": name,
            "source": {"name": "jsonl", "path": f"{name}.jsonl"},
            "splits": {"test": 4},
            **rest,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Path:
    write_tasks(tmp_path)
    options = {
        "tasks": ["greetings.yaml"],
        "held_out": ["greetings"],
        "eval_size": 3,
        "few_shot_share": 0.5,
        "inversion_share": 0.25,
        "max_new_tokens": 4,
        "training": TRAINING,
    }
    path = tmp_path / "run.yaml"
    content = {
        "decoder": str(tiny_folder),
        "task": "sums.yaml",
        "methods": {"instruction_tuning": options},
    }
    path.write_text(json.dumps(content))
    return path


def test_a_left_out_task_is_judged_by_its_own_scorer(config: Path, tmp_path: Path) -> None:
    result = compare(config, tmp_path / "run", progress=False)
    rung = result["instruction_tuning"]
    unseen = rung.unseen_categories
    assert unseen is not None and list(unseen) == ["all", "greetings"]
    assert unseen["greetings"].scorer == "token_f1" and unseen["greetings"].n == 3
    assert rung.training["held_out"] == ["greetings"] and rung.training["examples"] == 12
    shown = " ".join(describe_notes(result.result))
    assert "categories it has not seen" in shown and "(token_f1)" in shown
    assert Comparison.load(tmp_path / "run").result == result.result

    # nothing runs again, until data of the mixture changes
    before = (tmp_path / "run" / "predictions" / "instruction_tuning.jsonl").stat().st_mtime_ns
    compare(config, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "predictions" / "instruction_tuning.jsonl"
    assert path.stat().st_mtime_ns == before
    data = tmp_path / "greetings.jsonl"
    data.write_text(data.read_text().replace("Greet number 1.", "Greet one."))
    compare(config, tmp_path / "run", progress=False)
    assert path.stat().st_mtime_ns != before
