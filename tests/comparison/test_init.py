"""``adapt-jax init``: invented data of many shapes, each understood without a word about it."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.cli.main import main
from adapt_jax.comparison.compare import compare
from adapt_jax.comparison.init import describe, init
from adapt_jax.tasks.guess_config import guess_config
from adapt_jax.tasks.loading import load_task
from adapt_jax.utils.config import CompareConfig, load_config
from adapt_jax.utils.errors import UserError


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: list[list[Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def draw(choices: str, count: int = 60) -> list[str]:
    rng = random.Random(0)
    return [rng.choice(choices.split()) for _ in range(count)]


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": f"T{t}",
            "paragraphs": [
                {
                    "context": f"In {1900 + t} Ada founded firm {t}.",
                    "qas": [
                        {
                            "id": f"{t}a",
                            "question": f"Who founded firm {t}?",
                            "answers": [
                                {"text": "Ada", "answer_start": 8},
                                {"text": "Ada", "answer_start": 8},
                            ],
                        },
                    ],
                },
            ],
        }
        for t in range(20)
    ],
}
BIG_BENCH = {
    "keywords": ["a", "b"],
    "metrics": ["multiple_choice_grade"],
    "examples": [
        {
            "input": f"The odd word: cat{n}, dog{n}, blue",
            "target_scores": {f"cat{n}": 0, f"dog{n}": 0, "blue": 1},
        }
        for n in range(30)
    ],
}
ARC = [
    {
        "id": f"M{n}",
        "question": {
            "stem": f"Which gas is {n}?",
            "choices": [
                {"text": f"{gas}{n}", "label": label}
                for gas, label in zip(["neon", "argon", "helium"], "ABC", strict=True)
            ],
        },
        "answerKey": key,
    }
    for n, key in enumerate(draw("A B C"))
]
HELLASWAG = [
    {
        "ind": n,
        "activity_label": "Baking",
        "ctx_a": "A man",
        "ctx": f"A man {n} is seen. he",
        "endings": [f"runs {n}", f"bakes {n}", f"sings {n}"],
        "label": int(key),
    }
    for n, key in enumerate(draw("0 1 2"))
]
TICKETS = [
    [
        "Ticket ID",
        "Customer Name",
        "Ticket Subject",
        "Ticket Description",
        "Ticket Type",
        "Ticket Status",
    ],
    *(
        [n, "Ada", kind, f'Hello,\nmy case {n} is "{kind}".', f"{kind} request", "Open"]
        for n, kind in enumerate(draw("refund technical billing"))
    ),
]
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "squad": (
        "squad.json",
        json.dumps(SQUAD),
        {
            "source": {"records": "data.paragraphs.qas"},
            "fields": {"question": "{context}\n{question}", "answer": "answers.text"},
            "answer_parser": "text",
        },
    ),
    "big_bench": (
        "odd.json",
        json.dumps(BIG_BENCH),
        {
            "source": {"records": "examples"},
            "fields": {"question": "input", "answer": "target_scores", "choices": "target_scores"},
            "answer_parser": "choice",
        },
    ),
    "mmlu": (
        "mmlu.csv",
        table(
            [
                [f"What is {n}?", n, n + 1, n + 2, n + 3, key]
                for n, key in enumerate(draw("A B C D"))
            ]
        ),
        {
            "source": {"columns": ["question", "A", "B", "C", "D", "answer"]},
            "fields": {"question": "question", "answer": "answer", "choices": ["A", "B", "C", "D"]},
            "answer_parser": "choice",
        },
    ),
    "hellaswag": (
        "hs.jsonl",
        jsonl(HELLASWAG),
        {
            "fields": {"question": "ctx", "answer": "label", "choices": "endings"},
            "answer_parser": "choice",
            "answer_index": 0,
        },
    ),
    "arc": (
        "arc.jsonl",
        jsonl(ARC),
        {
            "fields": {
                "question": "question.stem",
                "answer": "answerKey",
                "choices": "question.choices.text",
                "choice_labels": "question.choices.label",
            },
            "answer_parser": "choice",
        },
    ),
    "tickets": (
        "tickets.csv",
        table(TICKETS),
        {
            "fields": {
                "question": "{Ticket Subject}\n{Ticket Description}",
                "answer": "Ticket Type",
            },
            "answer_parser": "label",
            "choices": ["billing request", "refund request", "technical request"],
        },
    ),
    "semicolons": (
        "s.csv",
        "\ufeff"
        + table(
            [
                ["Text", "Sentiment"],
                *([f"Nr. {n}, gut;\r\nja", key] for n, key in enumerate(draw("gut schlecht"))),
            ],
            ";",
        ),
        {"fields": {"question": "Text", "answer": "Sentiment"}, "answer_parser": "label"},
    ),
    "tsv": (
        "cola.tsv",
        table(
            [
                ["sentence", "label"],
                *([f"The dog {n} barks", key] for n, key in enumerate(draw("0 1"))),
            ],
            "\t",
        ),
        {"fields": {"question": "sentence", "answer": "label"}, "answer_parser": "label"},
    ),
    "json_columns": (
        "c.json",
        json.dumps(
            {"review": [f"film {n}" for n in range(60)], "stars": [int(key) for key in draw("1 5")]}
        ),
        {"fields": {"question": "review", "answer": "stars"}, "answer_parser": "label"},
    ),
    "flan": (
        "flan.jsonl",
        jsonl(
            [
                {"inputs": f"Is {n} even?", "targets": key, "task_source": "F"}
                for n, key in enumerate(draw("yes no"))
            ]
        ),
        {"fields": {"question": "inputs", "answer": "targets"}, "answer_parser": "yes_no"},
    ),
    "nli": (
        "nli.jsonl",
        jsonl(
            [
                {"premise": f"A man {n} eats.", "hypothesis": "He eats.", "label": int(key)}
                for n, key in enumerate(draw("0 1 2"))
            ]
        ),
        {
            "fields": {"question": "{premise}\n{hypothesis}", "answer": "label"},
            "answer_parser": "label",
        },
    ),
    "piqa": (
        "piqa.jsonl",
        jsonl(
            [
                {"goal": f"Open {n}", "sol1": "a", "sol2": "b", "label": int(key)}
                for n, key in enumerate(draw("0 1"))
            ]
        ),
        {
            "fields": {"question": "goal", "answer": "label", "choices": ["sol1", "sol2"]},
            "answer_parser": "choice",
            "answer_index": 0,
        },
    ),
    "gsm8k": (
        "gsm.jsonl",
        jsonl(
            [
                {"question": f"{n} + 1?", "answer": f"It is <<{n}+1>>.\n#### {n + 1}"}
                for n in range(60)
            ]
        ),
        {
            "fields": {"question": "question", "answer": "answer"},
            "answer_parser": "number",
            "answer_pattern": r"####\s*(.+)$",
        },
    ),
    "decimals": (
        "d.jsonl",
        jsonl([{"input": f"{n} + 1?", "target": n + 1.0} for n in range(60)]),
        {
            "fields": {"question": "input", "answer": "target"},
            "answer_parser": "number",
            "answer_pattern": r"^(.*?)(?:\.0)?$",
        },
    ),
    "summaries": (
        "cnn.jsonl",
        jsonl(
            [{"article": f"Text {n}. " * 30, "highlights": f"One {n}.\nTwo."} for n in range(60)]
        ),
        {"fields": {"question": "article", "answer": "highlights"}, "answer_parser": "free_text"},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_unknown_data_is_found(name: str, tmp_path: Path) -> None:
    file, content, expected = SHAPES[name]
    (tmp_path / file).write_text(content, newline="")
    config = guess_config(str(tmp_path / file), tmp_path).config
    for key, value in expected.items():
        found = config[key]
        if isinstance(value, dict):
            found = {inner: found.get(inner) for inner in value}
        assert found == value, key


def write_tickets(folder: Path) -> str:
    (folder / "tickets.csv").write_text(SHAPES["tickets"][1], newline="")
    return str(folder / "tickets.csv")


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
