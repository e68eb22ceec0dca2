"""Long runs that are killed: started again by the same command they end with the same files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import EXAMPLES, prompt, write_task
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.cli.main import main
from adapt_jax.comparison.compare import compare
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.tasks.loading import load_task

TIMES = ("seconds", "train_seconds", "compilations", "time", "crc32", "predictions_crc32")
SHORT = {"max_new_tokens": 24}
SAMPLED = SHORT | {"demonstrations": 1, "candidates": 6, "temperature": 1.0, "stop_at": 0.8}
TRAINED = SHORT | {"rank": 2, "training": {"steps": 3, "batch_size": 4, "warmup_steps": 0}}


def timeless(content: Any) -> Any:
    """What a file holds, but for the times."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in TIMES}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def left(folder: Path) -> dict[str, Any]:
    """Every file of a folder by its name, without the times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().split("\n")[:-1]]
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def kill(arguments: list[str], journal: Path, pattern: str, lines: int) -> int:
    """Runs the command in a process of its own and kills it when the journal has these lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "adapt_jax", *arguments, "--quiet"],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
        stdout=subprocess.DEVNULL,
    )
    seen = 0
    while process.poll() is None and seen < lines:
        time.sleep(0.002)
        seen = sum(path.read_bytes().count(b"\n") for path in journal.glob(pattern))
    process.kill()
    process.wait()
    return seen


def test_a_killed_comparison_ends_with_the_files_of_one_that_was_not(
    shallow_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    run = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task", test=30),
        "methods": {"self_consistency": SAMPLED},
        "max_concurrent_sequences": 4,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["compare", str(tmp_path / "run.yaml"), "--output-dir"]
    seen = kill([*arguments, str(killed)], killed / "unfinished", "self_cons*/answers.jsonl", 6)
    assert seen >= 6 and not (killed / "predictions").exists()
    [journal] = (killed / "unfinished").glob("self_cons*/answers.jsonl")
    asked = []
    stream = Adaptation.stream

    def watched(self, examples, *, answered=(), **options):
        asked.append((self.method, len(examples) - len(answered)))
        return stream(self, examples, answered=answered, **options)

    monkeypatch.setattr(Adaptation, "stream", watched)
    assert main([*arguments, str(killed), "--quiet"]) == 0
    assert dict(asked)["self_consistency"] <= 25
    assert not journal.exists() and not (killed / "unfinished").exists()
    monkeypatch.setattr(Adaptation, "stream", stream)
    assert main([*arguments, str(whole), "--quiet"]) == 0
    one, other = left(whole), left(killed)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name] or name.endswith(".png"), name


def comparison(shallow_folder: Path, tmp_path: Path, **options) -> dict[str, Any]:
    methods = {"zero_shot": SHORT, "few_shot": SHORT | {"demonstrations": 1}} | options
    task = write_task(tmp_path / "task")
    return {
        "decoder": str(shallow_folder),
        "task": task,
        "methods": methods,
        "max_concurrent_sequences": 4,
    }


def test_only_rungs_that_something_changed_for_are_climbed_again(
    shallow_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    asked = []

    def say(name: str, number: int) -> str:
        asked.append(name)
        return " The answer is 51."

    monkeypatch.setattr(session_module, "Engine", scripted(say))
    first = compare(comparison(shallow_folder, tmp_path), tmp_path / "run", progress=False)
    assert len(asked) == 12
    again = compare(comparison(shallow_folder, tmp_path), tmp_path / "run", progress=False)
    assert len(asked) == 12 and again.rungs == first.rungs
    other = comparison(shallow_folder, tmp_path, few_shot=SHORT | {"demonstrations": 2})
    changed = compare(other, tmp_path / "run")
    said = capsys.readouterr().out
    assert "run held another comparison; replaced: few_shot" in " ".join(said.split())
    assert "(from an earlier run)" in said.partition("few_shot: ")[0]
    assert len(asked) == 18 and changed["few_shot"].identity != first["few_shot"].identity
    compare(other, tmp_path / "run", overrides={"seed": 1}, progress=False)
    assert len(asked) == 30
    compare(other, tmp_path / "run", overrides={"seed": 1}, progress=False, fresh=True)
    assert len(asked) == 42
    with (tmp_path / "task" / "train.jsonl").open("a") as file:
        file.write('{"question": "What is 3?", "answer": "3", "reasoning": "It is 3."}\n')
    compare({**other, "task": other["task"]}, tmp_path / "run", overrides={"seed": 1},
            progress=False)  # fmt: skip
    assert len(asked) == 54


def test_a_rung_whose_texts_hold_line_separators_is_kept_all_the_same(
    shallow_folder: Path, tmp_path: Path, monkeypatch
):
    said = " One\u2028two\x85three. The answer is 51."
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: said))
    compare(comparison(shallow_folder, tmp_path), tmp_path / "run", progress=False)
    monkeypatch.setattr(Adaptation, "stream", lambda *_, **__: pytest.fail("climbed again"))
    compare(comparison(shallow_folder, tmp_path), tmp_path / "run", progress=False)


def test_a_rung_that_was_trained_is_not_trained_again(
    shallow_folder: Path, tmp_path: Path, monkeypatch
):
    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    config = comparison(shallow_folder, tmp_path) | {"methods": {"lora": TRAINED}}
    monkeypatch.setattr(session_module, "Engine", scripted(stop))
    with pytest.raises(KeyboardInterrupt):
        compare(config, tmp_path / "run", progress=False)
    [metrics] = (tmp_path / "run" / "unfinished").glob("lora-*/training/metrics.jsonl")
    before = metrics.read_text()  # its times too
    assert len(before.splitlines()) == 3
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 51."))
    compare(config, tmp_path / "run", progress=False)
    training = tmp_path / "run" / "training" / "lora"
    assert (training / "metrics.jsonl").read_text() == before
    assert not (training / "checkpoints").exists() and not metrics.exists()


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_rung_whose_results_were_edited_is_climbed_again_and_says_so(
    tiny_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 51."))
    config, run = comparison(tiny_folder, tmp_path), tmp_path / "run"
    compare(config, run, progress=False)
    replace_text(run / "predictions" / "few_shot.jsonl", '"score": 0.0', '"score": 1.0')
    capsys.readouterr()
    compare(config, run)
    said = " ".join(capsys.readouterr())
    assert "few_shot: its results have changed since they were written" in said
    assert "zero_shot: its results" not in said and "(from an earlier run)" in said


def test_a_finished_rung_whose_files_were_damaged_is_climbed_again(
    shallow_folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 51."))
    config, run = comparison(shallow_folder, tmp_path), tmp_path / "run"
    compare(config, run, progress=False)
    before = left(run)
    for damage in (
        lambda: (run / "predictions" / "zero_shot.jsonl").write_text("{}\n"),
        lambda: (run / "adaptations" / "few_shot" / "adaptation.json").unlink(),
        lambda: (run / "comparison.json").write_text("{"),
        lambda: replace_text(run / "comparison.json", '"seconds": ', '"seconds": 1'),
        lambda: replace_text(run / "predictions" / "few_shot.jsonl", "answer is 51", "answer is 5"),
    ):
        damage()
        (run / "adaptations" / ".few_shot.1x2y").mkdir()  # killed while it was saved
        compare(config, run, progress=False)
        assert len(list((run / "adaptations").iterdir())) == 2
        assert {name: left(run)[name] for name in before if not name.endswith("png")} == {
            name: before[name] for name in before if not name.endswith("png")
        }


def test_evaluate_keeps_answers_as_they_come_and_goes_on(
    shallow, tmp_path: Path, monkeypatch, capsys
):
    saved = Adaptation("zero_shot", prompt(), shallow).save(tmp_path / "saved")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(write_task(tmp_path / "task", test=20)))
    asked: list[str] = []
    stop_at: list[int] = [8]

    def say(name: str, number: int) -> str:
        asked.append(name)
        if len(asked) > stop_at[0]:
            raise KeyboardInterrupt
        return f" The answer is {len(name)}."

    monkeypatch.setattr(session_module, "Engine", scripted(say))
    arguments = ["evaluate", str(saved), str(tmp_path / "task.yaml"), "--output-dir"]
    assert main([*arguments, str(tmp_path / "one")]) == 130
    partial = tmp_path / "one" / "predictions.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 1 + 8
    with partial.open("a") as file:
        file.write('{"example_id": "test-9", "ans')  # killed while it wrote
    asked.clear()
    stop_at[0] = 99
    assert main([*arguments, str(tmp_path / "one")]) == 0
    assert len(asked) == 12 and not partial.exists()
    assert main([*arguments, str(tmp_path / "other")]) == 0
    assert left(tmp_path / "one") == left(tmp_path / "other")
    rows = left(tmp_path / "one")["predictions.jsonl"]
    assert [row["question"] for row in rows] == [f"What is {n} + 1?" for n in range(50, 70)]


def test_a_journal_of_other_work_is_not_used(shallow, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 51."))
    task = load_task(write_task(tmp_path / "task"))
    adaptation = Adaptation("zero_shot", prompt(), shallow)
    journal = Journal(tmp_path / "answers.jsonl", "one")
    before = evaluate(adaptation, task, journal=journal)
    known = Journal(tmp_path / "answers.jsonl", "one").read(task.test)
    assert [known[index] for index in range(6)] == [row.prediction for row in before.predictions]
    assert Journal(tmp_path / "answers.jsonl", "other").read(task.test) == {}
    (tmp_path / "answers.jsonl").write_bytes(b"\xff\x00")
    assert Journal(tmp_path / "answers.jsonl", "one").read(task.test) == {}


def test_answers_are_to_the_bit_what_they_are_beside_those_that_were_known(shallow):
    adaptation = Adaptation("self_consistency", prompt(candidates=3, temperature=1.0), shallow)
    examples = [*EXAMPLES, *(type(e)(e.id + "x", e.question * 2) for e in EXAMPLES)]
    whole = dict(adaptation.stream(examples, max_concurrent_sequences=4))
    rest = dict(adaptation.stream(examples, max_concurrent_sequences=4, answered={0, 2, 5}))
    assert {i: one.candidates for i, one in rest.items()} == {
        i: whole[i].candidates for i in (1, 3, 4)
    }


def test_predictions_end_in_the_order_of_the_questions(shallow, tmp_path: Path, monkeypatch):
    saved = Adaptation("chain_of_thought", prompt(), shallow).save(tmp_path / "saved")
    rows = [{"id": f"q{n}", "question": f"What is {n}?"} for n in range(6)]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 7."))
    assert main(["predict", str(saved), str(source), str(target), "--quiet"]) == 0
    lines = target.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [f"q{n}" for n in range(6)]
    cut = json.dumps({"question": "über", "id": "x"}, ensure_ascii=False).encode()[:15]
    target.write_bytes("".join([lines[5], lines[1]]).encode() + cut)  # through a letter
    assert main(["predict", str(saved), str(source), str(target), "--quiet"]) == 0
    again = [json.loads(line) for line in target.read_text().splitlines()]
    assert timeless(again) == timeless([json.loads(line) for line in lines])


def test_progress_tells_the_pace(shallow):
    told: list[tuple] = []
    task = load_task({"name": "t", "source": {"name": "arithmetic"}, "splits": {"test": 4}})
    evaluate(
        Adaptation("zero_shot", prompt(), shallow),
        task,
        on_progress=lambda *said: told.append(said),
    )
    assert told[0][:2] == (0, 4) and told[-1][:2] == (4, 4)
    assert any(note.endswith(" tokens/s") for _, _, note in told)
