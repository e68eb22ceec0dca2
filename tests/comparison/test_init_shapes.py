"""What init finds out about data of many shapes, without a word about them."""

import json
from pathlib import Path
from typing import Any

import pytest
from init_data import TICKETS, draw, jsonl, table

from adapt_jax.tasks.guessing.config import guess_config

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


SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "squad": (
        "squad.json",
        json.dumps(SQUAD),
        {
            "source": {"records": "data.paragraphs.qas"},
            "fields": {"question": "{context}\n{question}", "answer": "answers.text"},
            "answer_parser": "span",
            "scorer": "squad",
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
