"""What init finds out about data as exports, annotators and crawlers leave it."""

import json
from pathlib import Path
from typing import Any

import pytest
from init_data import draw, jsonl, table

from adapt_jax.tasks.guessing.config import guess_config
from adapt_jax.utils.errors import UserError

N = range(40)


def ask(text: str = "Case") -> list[str]:
    """Forty questions."""
    return [f"{text} number {n}?" for n in N]


def lines(**columns: list[Any]) -> str:
    return jsonl(
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )


def cells(*columns: list[Any], delimiter: str = ",") -> str:
    header, *_ = zip(*columns, strict=True)
    return table([list(header), *zip(*(column[1:] for column in columns), strict=True)], delimiter)


def rows_of(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": one, "label": key} for one, key in zip(texts, LETTERS, strict=True)]


CHOICES = [["sky", "sea", f"stone {n}"] for n in N]
LETTERS = draw("A B C", 40)
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "decimal_comma": (
        "prices.csv",
        cells(["Artikel", *ask()], ["Preis", *(f"{n},{n % 90 + 10}" for n in N)], delimiter=";"),
        {"fields": {"question": "Artikel", "answer": "Preis"}, "answer_parser": "decimal_comma"},
    ),
    "preferences": (
        "dpo.jsonl",
        lines(
            prompt=ask(),
            chosen=[f"Yes, number {n} it is, of course, as it always was and will be." for n in N],
            rejected=[f"No, {n} it never was, and if it had been, who would know?" for n in N],
        ),
        {"fields": {"question": "prompt", "answer": "chosen"}, "answer_parser": "free_text"},
    ),
    "preferences_between_conversations": (
        "dpo.jsonl",
        jsonl(
            [
                {
                    name: [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": f"{name} words"},
                    ]
                    for name in ("chosen", "rejected")
                }
                for question in ask()
            ]
        ),
        {"fields": {"messages": "chosen"}, "answer_parser": "text"},
    ),
    "names_with_numbers": (
        "rockets.csv",
        cells(["question", *ask()], ["answer", *(f"Apollo {n}" for n in N)]),
        {"answer_parser": "text"},
    ),
    "numbers_with_units": (
        "far.csv",
        cells(["question", *ask()], ["answer", *(f"approx. {n},000 km" for n in N)]),
        {"answer_parser": "number"},
    ),
    "unanswerable_questions": (
        "qa.jsonl",
        lines(question=ask(), answer=[f"in Rome {n}" if n % 3 else None for n in N]),
        {"answer_parser": "text", "skip_missing": True},
    ),
    "a_key_is_left_out": (
        "tickets.jsonl",
        jsonl(
            [
                {"text": text, **({"label": key} if n % 9 else {})}
                for n, (text, key) in enumerate(zip(ask(), LETTERS, strict=True))
            ]
        ),
        {"fields": {"question": "text", "answer": "label"}, "skip_missing": True},
    ),
    "one_answer_or_several": (
        "qa.jsonl",
        lines(question=ask(), answer=[f"Rome {n}" if n % 2 else [f"Rome {n}", "it"] for n in N]),
        {"fields": {"question": "question", "answer": "answer"}, "answer_parser": "text"},
    ),
    "truth_values_in_a_table": (
        "mails.csv",
        cells(["email", *ask()], ["spam", *draw("True False", 40)]),
        {"answer_parser": "yes_no", "instruction": "Say of the text, Spam: yes or no."},
    ),
    "labels_as_floats": (
        "pandas.csv",
        cells(["text", *ask()], ["label", *draw("0.0 1.0", 40)]),
        {"answer_parser": "label", "choices": ["0", "1"]},
    ),
    "zero_and_one": (
        "rage.csv",
        cells(["text", *ask()], ["joy", *draw("0 1", 40)], ["rage", *draw("1 0", 40)]),
        {"fields": {"question": "text", "answer": "rage"}, "answer_parser": "label"},
    ),
    "choices_as_json": (
        "mc.csv",
        cells(
            ["question", *ask()], ["choices", *map(json.dumps, CHOICES)], ["answer", *LETTERS]
        ),
        {"fields": {"choices": "choices", "answer": "answer"}, "answer_parser": "choice"},
    ),
    "choices_as_pandas_writes_lists": (
        "mc.csv",
        cells(["question", *ask()], ["choices", *map(str, CHOICES)], ["answer", *LETTERS]),
        {"fields": {"choices": "choices", "answer": "answer"}, "answer_parser": "choice"},
    ),
    "choices_between_bars": (
        "mc.csv",
        cells(["question", *ask()], ["options", *map("|".join, CHOICES)], ["answer", *LETTERS]),
        {"fields": {"choices": "options", "answer": "answer"}, "answer_parser": "choice"},
    ),
    "columns_a_and_b_are_no_choices": (
        "sensors.jsonl",
        jsonl(
            [
                {"qid": n, "body": text, "info": {"a": n, "b": "x"}, "kind": key}
                for n, (text, key) in enumerate(zip(ask(), LETTERS, strict=True))
            ]
        ),
        {"fields": {"question": "body", "answer": "kind", "id": "qid"}, "answer_parser": "label"},
    ),
    "splits_within_a_file": (
        "all.json",
        json.dumps({"train": rows_of(ask()), "test": rows_of(ask("Test"))}),
        {"fields": {"question": "text", "answer": "label"}, "answer_parser": "label"},
    ),
    "boxed": (
        "math.jsonl",
        lines(
            problem=ask(),
            solution=[f"Take {n}. As 1 + {n} = {n + 1}, it is $\\boxed{{{n + 1}}}$." for n in N],
        ),
        {"fields": {"question": "problem", "answer": "solution"}, "answer_parser": "number"},
    ),
    "choices_with_letters_in_one_text": (
        "mathqa.jsonl",
        lines(Problem=ask(), options=[f"a ) {n} , b ) {n + 1}" for n in N], correct=["b"] * 40),
        {"fields": {"choices": "options", "answer": "correct"}, "answer_parser": "choice"},
    ),
    "a_question_beside_its_premise": (
        "copa.jsonl",
        lines(
            premise=ask(), question=["cause", "effect"] * 20, choice1=ask("One"),
            choice2=ask("Two"), label=[0, 1] * 20,
        ),
        {"fields": {"question": "{premise}\n{question}", "choices": ["choice1", "choice2"]}},
    ),
    "a_context_that_is_mostly_empty": (
        "dolly.jsonl",
        lines(
            instruction=ask(), context=["", "", "", "Here."] * 10,
            response=["a b c d e f g h i j k l m"] * 40,
        ),
        {"fields": {"question": "{instruction}\n{context}", "answer": "response"}},
    ),
    "the_best_answer_and_not_the_category": (
        "truthful.csv",
        cells(
            ["Category", *draw("Law Health", 40)], ["Question", *ask()],
            ["Best Answer", *(f"No {n}" for n in N)],
            ["Incorrect Answers", *(f"Yes {n}" for n in N)],
        ),
        {"fields": {"question": "Question", "answer": "Best Answer", "category": "Category"}},
    ),
    "spans_of_an_object": (
        "drop.jsonl",
        lines(
            passage=ask("Passage"), question=ask(),
            answers_spans=[{"spans": [str(n)], "types": ["number"]} for n in N],
        ),
        {"fields": {"answer": "answers_spans.spans"}, "answer_parser": "number"},
    ),
    "short_and_long_answers": (
        "nq.jsonl",
        lines(
            question=ask(), short_answers=[[f"in {n}"] for n in N],
            long_answer=[f"It has been so since the year {n}, they say." for n in N],
        ),
        {"fields": {"answer": "short_answers", "reasoning": "long_answer"}},
    ),
    "names_of_labels_beside_numbers": (
        "setfit.csv",
        cells(
            ["text", *ask()], ["label", *draw("0 1", 40)], ["label_text", *draw("neg pos", 40)]
        ),
        {"fields": {"answer": "label_text"}, "answer_parser": "label", "choices": ["neg", "pos"]},
    ),
    "codes_that_begin_with_zero": (
        "zip.csv",
        cells(["city", *ask()], ["zip", *(f"0{1000 + n}" for n in N)]),
        {"answer_parser": "text"},
    ),
    "short_sentences": (
        "chat.jsonl",
        lines(prompt=ask(), completion=[f"It is {n} degrees." for n in N]),
        {"answer_parser": "free_text", "scorer": "token_f1"},
    ),
    "translations": (
        "de.jsonl",
        lines(translation=[{"en": one, "de": f"Fall {n}?"} for n, one in enumerate(ask())]),
        {"answer_parser": "free_text"},
    ),
    "long_words": (
        "alpaca.jsonl",
        lines(instruction=ask(), output=[f"It is, {n} we say, a to b or so as I go." for n in N]),
        {"answer_parser": "free_text", "scorer": "token_f1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_odd_data_is_found(name: str, tmp_path: Path) -> None:
    file, content, expected = SHAPES[name]
    (tmp_path / file).write_text(content, newline="")
    config = guess_config(str(tmp_path / file), tmp_path / "new").config
    for key, value in expected.items():
        found = config[key]
        if isinstance(value, dict):
            found = {inner: found.get(inner) for inner in value}
        assert found == value, key
    assert not (tmp_path / "new").exists()


def test_what_a_box_holds_is_the_answer_and_the_text_its_reasoning(tmp_path: Path) -> None:
    (tmp_path / "math.jsonl").write_text(SHAPES["boxed"][1])
    (example, *_) = guess_config(str(tmp_path / "math.jsonl"), tmp_path).task.test
    number = int(example.answer)
    assert example.reasoning.startswith(f"Take {number - 1}. As 1 + {number - 1} = {number}")


def test_init_says_what_it_cannot_know(tmp_path: Path) -> None:
    (tmp_path / "several.jsonl").write_text(lines(text=ask(), labels=[["a", "b"], ["b"]] * 20))
    reasons = guess_config(str(tmp_path / "several.jsonl"), tmp_path).reasons
    assert "20 of 40 rows have several" in reasons["answer_parser"]
    (tmp_path / "tons.csv").write_text(cells(["Ort", *ask()], ["kg", *(f"{n + 1}.500" for n in N)]))
    reasons = guess_config(str(tmp_path / "tons.csv"), tmp_path).reasons
    assert "1.234 is read as a decimal" in reasons["answer_parser"]
    (tmp_path / "flags.csv").write_text(SHAPES["zero_and_one"][1])
    reasons = guess_config(str(tmp_path / "flags.csv"), tmp_path).reasons
    assert "joy, rage are yes or no each" in reasons["fields"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("one.csv", "text\na\nb\n", "there is one column, 'text' "),
        ("price.csv", "text$label\na$b\n", "there is one column, 'text.label'"),
        ("list.jsonl", '[{"question": "a", "answer": "b"}]\n', "line 1: .* is it a .json file?"),
        (
            "same/test.jsonl",
            lines(text=ask(), label=LETTERS),
            "that of .*test.jsonl",
        ),
    ],
)
def test_data_that_cannot_be_a_task_is_refused_in_one_line(
    file: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    data = tmp_path / file
    if file == "same/test.jsonl":
        (tmp_path / "same" / "train.jsonl").write_text(content)
        data = tmp_path / "same"
    with pytest.raises(UserError, match=message) as refused:
        guess_config(str(data), tmp_path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
