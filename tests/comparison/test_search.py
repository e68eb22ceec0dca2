"""A search: the development split decides, the budget holds, and it continues where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.cli.main import main
from adapt_jax.comparison import search as search_module
from adapt_jax.comparison.adaptations import find_adaptation
from adapt_jax.comparison.search import search
from adapt_jax.utils.errors import UserError

LABELS = ["refund", "delivery", "complaint"]


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"text": f"My {('money', 'parcel', 'lamp')[n % 3]} is number {n}.", "label": LABELS[n % 3]}
        for n in range(90)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "support",
        "source": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")},
        "fields": {"question": "text", "answer": "label"},
        "choices": LABELS,
        "template": {"choice": ""},
        "instruction": "Which department?",
        "answer_parser": "label",
        "splits": {"development": 24, "test": 9},
    }
    method = {"name": "few_shot", "answer_by": "likelihood", "demonstrations": 2}
    return {
        "decoder": str(tiny_folder),
        "task": task,
        "method": method,
        "max_questions": 150,
        "candidates": 6,
        "orders": 1,
    }


def read(folder: Path, name: str = "search.json") -> Any:
    return json.loads((folder / name).read_text())


def test_a_search_keeps_its_budget_and_saves_an_ordinary_adaptation(config, tmp_path, capsys):
    config["instructions"] = ["Name one of {choices}."]
    path = tmp_path / "search.yaml"
    path.write_text(json.dumps(config))
    out = tmp_path / "out"
    assert main(["search", str(path), "--output-dir", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    found = read(out)
    assert "7 prompts tried" in printed and "test " in printed
    assert found["asked"] <= 150 and found["test"]["n"] == 9
    assert found["asked"] == sum(
        one["development"]["n"] for one in found["tried"] if one["development"]
    )
    origins = [one["origin"] for one in found["tried"]]
    assert origins == ["own", "own", *["drawn"] * 4, "reordered"]
    instructions = {one["instruction"] for one in found["tried"]}
    assert instructions == {"Which department?", "Name one of refund, delivery, complaint."}
    chosen = found["tried"][found["chosen"]]
    assert chosen["left_because"] is None and chosen["development"] == found["development"]
    assert all(one["left_because"] for one in found["tried"] if one is not chosen)
    assert not (out / "unfinished").exists()

    # it is asked and evaluated as any other
    prompt = read(find_adaptation(str(out)), "adaptation.json")["prompt"]
    assert [one["question"] for one in prompt["demonstrations"]] == chosen["demonstrations"]
    assert main(["ask", str(out), "My parcel is late.", "--decoder", config["decoder"]]) == 0
    assert read(out, "evaluation.json")["accuracy"] == found["test"]["accuracy"]
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 9

    # the same search is not run again
    assert main(["search", str(path), "--output-dir", str(out), "--quiet"]) == 0
    assert read(out) == found


def test_the_test_split_is_asked_once_and_only_at_the_end(config, tmp_path, monkeypatch):
    asked: list[list[str]] = []
    evaluate = search_module.evaluate

    def record(adaptation, task, examples=None, **options):
        asked.append([one.id for one in (task.test if examples is None else examples)])
        return evaluate(adaptation, task, examples, **options)

    monkeypatch.setattr(search_module, "evaluate", record)
    search(config, tmp_path / "out", progress=False)
    [*before, last] = asked
    assert len(last) == 9 and not {*last} & {one for ids in before for one in ids}
    # all prompts answer the same questions in the same order
    first_round = [ids for ids in before if ids[0] == before[0][0]]
    assert len(first_round) >= 6 and all(ids == before[0] for ids in first_round[:6])


def test_an_interrupted_search_ends_as_one_that_was_not(config, tmp_path, monkeypatch):
    search(config, tmp_path / "whole", progress=False)
    evaluate, calls = search_module.evaluate, {"left": 0}

    def stop(*args, **options):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(search_module, "evaluate", stop)
    for calls["left"] in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "out", progress=False)
        assert not (tmp_path / "out" / "search.json").exists()
    asked: list[int] = []
    stream = search_module.Adaptation.stream

    def count(self, examples, **options):
        asked.append(len(examples) - len(options["answered"]))
        return stream(self, examples, **options)

    monkeypatch.setattr(search_module.Adaptation, "stream", count)
    search(config, tmp_path / "out", progress=False)
    assert read(tmp_path / "out") == read(tmp_path / "whole")
    assert asked[:8] == [0] * 8 and sum(asked) < read(tmp_path / "out")["asked"]


def test_another_search_replaces_what_is_there(config, tmp_path):
    search(config, tmp_path / "out", progress=False)
    first = read(tmp_path / "out")
    search(config, tmp_path / "out", progress=False, overrides={"seed": 1})
    second = read(tmp_path / "out")
    assert second["identity"] != first["identity"] and second["seed"] == 1
    assert second["tried"] != first["tried"]


def test_prompts_without_demonstrations_are_instructions(config, tmp_path):
    config["method"] = {"name": "zero_shot", "answer_by": "likelihood"}
    config["instructions"] = ["Say.", "Which department?"]
    found = search(config, tmp_path / "out", progress=False)
    assert [one.instruction for one in found.tried] == ["Which department?", "Say."]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"method.name": "lora"}, "method.name: lora trains"),
        ({"task.splits.development": "0"}, "a search decides on the development split"),
        ({"candidates": "1"}, "candidates: Input should be greater than or equal to 2"),
        ({"method.demonstrations.select": "best"}, "demonstrations is 2, it has no keys"),
        ({"method.demonstrations": "{select: best}"}, "unknown selection 'best'"),
    ],
)
def test_a_mistake_is_one_line(config, tmp_path, change, line):
    if change.get("method.name") == "lora":
        config["method"] = {"name": "lora"}
    with pytest.raises(UserError) as told:
        search(config, tmp_path / "out", progress=False, overrides=change)
    assert line in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()
