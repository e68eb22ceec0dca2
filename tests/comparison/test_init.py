"""``adapt-jax init`` writes a task and a comparison for unknown data, and says why."""

from pathlib import Path

import pytest
from init_data import jsonl, write_tickets

from adapt_jax.cli.main import main
from adapt_jax.comparison.compare import compare
from adapt_jax.comparison.init import describe, init
from adapt_jax.tasks.guessing.config import guess_config
from adapt_jax.tasks.loading import load_task
from adapt_jax.utils.config import CompareConfig, load_config
from adapt_jax.utils.errors import UserError


def test_what_is_written_loads_and_says_why(tmp_path: Path) -> None:
    result = init(write_tickets(tmp_path), "embedded", tmp_path / "out")
    text = result.task_file.read_text()
    assert "# the 3 labels that occur\nchoices:" in text and "source: {path: tickets.csv}" in text
    task = load_task(result.task_file)
    assert (len(task.train), len(task.development), len(task.test)) == (36, 6, 18)
    settings, _, _ = load_config(CompareConfig, result.compare_file)
    assert settings.decoder == "embedded"
    assert list(settings.methods)[:2] == ["zero_shot", "few_shot"]
    assert settings.methods["zero_shot"] == {"answer_by": "likelihood"}
    without = [rung.name for rung in result.rungs if rung.why_not]
    assert "chain_of_thought" in without and "lora" not in without
    assert (
        "# chain_of_thought: no training example has a reasoning" in result.compare_file.read_text()
    )
    assert all(rung.seconds > 0 for rung in result.rungs if not rung.why_not)
    assert any("of 512" in line for line in describe(result))


@pytest.mark.slow
def test_what_is_written_runs(tmp_path: Path) -> None:
    result = init(write_tickets(tmp_path), "embedded", tmp_path / "out")
    small = {"methods_subset": "zero_shot", "task.splits.test": 4}
    comparison = compare(result.compare_file, tmp_path / "run", overrides=small, progress=False)
    assert [rung.method for rung in comparison.measured_rungs] == ["zero_shot"]
    assert comparison.measured_rungs[0].n == 4


def test_files_that_are_there_are_kept_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_tickets(tmp_path), str(tmp_path / "mine")
    assert main(["init", data, "--output", out]) == 0
    assert "adapt-jax compare" in capsys.readouterr().out
    task_file = tmp_path / "mine_task.yaml"
    task_file.write_text("mine")
    assert main(["init", data, "--output", out]) == 2
    assert "mine_task.yaml: is there; --force replaces it" in capsys.readouterr().err
    assert task_file.read_text() == "mine"
    assert main(["init", data, "--output", out, "--force"]) == 0
    assert task_file.read_text() != "mine"


def test_rungs_of_long_answers_without_reasoning_show_none(tmp_path: Path) -> None:
    """Self-consistency then samples answers, so it shows as many as few-shot, which are as long."""
    pytest.importorskip("rouge_score")
    rows = [{"article": f"Text {n}.", "summary": f"Words of {n}. " * 20} for n in range(60)]
    (tmp_path / "news.jsonl").write_text(jsonl(rows))
    init(str(tmp_path / "news.jsonl"), output=tmp_path / "out")
    rungs = load_config(CompareConfig, tmp_path / "out_compare.yaml")[0].methods
    few, sampled = rungs["few_shot"], rungs["self_consistency"]
    assert sampled["demonstrations"] == few["demonstrations"] == 8
    assert sampled["max_new_tokens"] == few["max_new_tokens"]


def test_long_answers_are_scored_by_rouge_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"article": f"Text {n}.", "summary": f"Words of {n}. " * 20} for n in range(30)]
    (tmp_path / "news.jsonl").write_text(jsonl(rows))
    pytest.importorskip("rouge_score")
    config = guess_config(str(tmp_path / "news.jsonl"), tmp_path).config
    assert (config["answer_parser"], config["scorer"]) == ("verbatim", "rougeL")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = guess_config(str(tmp_path / "news.jsonl"), tmp_path).config
    assert (config["answer_parser"], config["scorer"]) == ("free_text", "token_f1")


def test_two_columns_a_and_b_are_no_choices(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(jsonl([{"a": f"a long text {n}", "b": n} for n in range(9)]))
    config = guess_config(str(tmp_path / "x.jsonl"), tmp_path).config
    assert config["fields"] == {"question": "a", "answer": "b"}
    assert config["answer_parser"] == "number"


def test_a_test_file_beside_a_training_file_is_taken(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("test", 100)):
        rows = [{"input": f"{n} + 1?", "target": n + 1} for n in range(start, start + 40)]
        (tmp_path / f"sums_{split}.jsonl").write_text(jsonl(rows))
    guessed = guess_config(str(tmp_path / "sums_train.jsonl"), tmp_path)
    assert guessed.config["source"] == {"train": "sums_train.jsonl", "test": "sums_test.jsonl"}
    assert (len(guessed.task.test), len(guessed.task.development)) == (40, 4)


def test_rows_that_are_incomplete_and_overlaps_are_said(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": n if n % 9 else None} for n in range(40)]
    (tmp_path / "train.jsonl").write_text(jsonl(rows))
    (tmp_path / "test.jsonl").write_text(jsonl(rows[1:5]))
    guessed = guess_config(str(tmp_path / "train.jsonl"), tmp_path)
    assert guessed.config["skip_missing"] is True
    assert guessed.config["allow_overlap"] == "drop"
    assert "line 1: field 'answer' is empty" in guessed.reasons["skip_missing"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: holds no row"),
        ("a.jsonl", '{"id": 1}\n{"id": 2}\n', "no column that looks like"),
        ("a.xyz", "x", "expected a file that ends with"),
        ("a.jsonl", "{", "a.jsonl, line 1: not valid JSON"),
    ],
)
def test_data_that_cannot_be_a_task_is_refused(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        guess_config(str(tmp_path / name), tmp_path)
