"""From values in a file to examples: text as written, missing as missing, golds as a whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt_jax.tasks.answers import read_gold
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.sources.readers import read_rows as read_file
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError

Load = Callable[..., Task]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a task over rows (or the text of a JSONL file), all of them in the test split."""

    def load(rows: list[dict[str, Any]] | str, **config: Any) -> Task:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "quiz.jsonl").write_text(text, encoding="utf-8")
        source = {"name": "jsonl", "path": "quiz.jsonl"}
        return load_task(
            {"name": "t", "source": source, "splits": {"test": 1.0}, **config}, tmp_path
        )

    return load


@pytest.mark.parametrize("written", ["2.5", "1.50", "1e5", "-0", '"a  b"', "true", "0.1"])
def test_values_are_shown_as_written(written: str, load: Load) -> None:
    task = load(f'{{"question": {written}, "answer": {written}}}', answer_parser="free_text")
    assert task.test[0].question == task.test[0].answer == written.strip('"')


def test_values_are_joined_as_written(load: Load) -> None:
    fields = {"question": "What is {a} + {b.c}?"}
    task = load('{"a": 2.5, "b": {"c": 0.10}, "answer": 2.60}', fields=fields)
    assert task.test[0].question == "What is 2.5 + 0.10?"
    assert task.test[0].answer == "2.60"


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        ('{"question": "?", "answer": NaN}', {}, r"line 1: field 'answer' is empty"),
        ('{"question": NaN, "answer": 1}', {}, r"line 1: field 'question' is empty"),
        ('{"question": null, "answer": 1}', {}, r"line 1: field 'question' is empty"),
        ('{"question": "?", "answer": []}', {}, r"line 1: field 'answer' is empty"),
        ('{"question": "?", "answer": {"text": ["Ann"]}}', {}, r"is an object.*answer\.text"),
        ('{"question": [[1]], "answer": 1}', {}, r"'question' is a list of lists"),
        ('{"question": "?", "answer": Infinity}', {}, r"line 1: not valid JSON \(Infinity"),
        ('{"question": "?", "answer": 1, "answer": 2}', {}, r"line 1: the key 'answer' occurs"),
        ('{"question": "?", "answer": "5:45"}', {}, r"line 1: the answer '5:45' cannot be read"),
        ('{"question": "?", "answer": "3,5"}', {}, r"line 1: the answer '3,5' cannot be read"),
        ('{"question": "?", "answer": "3 or 4"}', {}, r"line 1: the answer '3 or 4' cannot"),
        ('{"question": "?", "answer": ["4", "four"]}', {}, r"line 1: the answer 'four' cannot"),
        (
            '{"question": "?", "answer": "two\\nlines"}',
            {"answer_parser": "text"},
            r"several lines, which answer_parser: free_text reads",
        ),
        (
            '{"question": "?", "answer": "gren"}',
            {"answer_parser": "label", "choices": ["red", "green"]},
            r"the choices are 'red', 'green'; did you mean 'green'",
        ),
        (
            '{"question": "?", "answer": 3, "c": ["3 legs", "1 leg"]}',
            {"answer_parser": "choice", "fields": {"choices": "c"}},
            r"line 1: the answer '3' cannot be read.*answer_index: 0 or 1",
        ),
        (
            '{"question": "?", "answer": 2, "c": ["2", "4", "1", "6"]}',
            {"answer_parser": "choice", "fields": {"choices": "c"}},
            r"line 1: the answer '2' is a choice, and may be the index of another",
        ),
        (
            '{"question": "?", "answer": "A", "c": ["B", "A"]}',
            {"answer_parser": "choice", "fields": {"choices": "c"}},
            r"line 1: the answer 'A' cannot be read",
        ),
        (
            '{"question": "?", "answer": 2, "c": ["x", "y"]}',
            {"answer_parser": "choice", "fields": {"choices": "c"}, "answer_index": 0},
            r"line 1: the answer '2' is no index of a choice; expected 0 to 1",
        ),
        (
            '{"question": "?", "answer": "a", "c": ["x", "x"]}',
            {"answer_parser": "choice", "fields": {"choices": "c"}},
            r"line 1: the choice 'x' occurs twice",
        ),
        (
            '{"question": "?", "answer": "E", "c": {"text": ["x", "y"], "label": ["A", "B"]}}',
            {
                "answer_parser": "choice",
                "fields": {"choices": "c.text", "choice_labels": "c.label"},
            },
            r"line 1: the answer 'E' is none of 'A', 'B'",
        ),
        (
            '{"question": "1?", "answer": "Good"}\n{"question": "2?", "answer": "good"}',
            {"answer_parser": "label"},
            r"the labels 'Good' and 'good' differ only in letter case",
        ),
        (
            '{"question": "?", "answer": 1}',
            {"choices": ["a", "a"], "answer_parser": "label"},
            r"choices: 'a' occurs twice",
        ),
        (
            '{"question": "?", "answer": "a"}',
            {"choices": ["a"], "answer_parser": "label"},
            r"choices: expected two or more, found 1",
        ),
        (
            '{"question": "?", "answer": 1, "key": null}',
            {"fields": {"id": "key"}},
            r"line 1: field 'key' is empty",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_line(
    row: str, config: dict[str, Any], message: str, load: Load
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(row, **config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_rows_without_a_question_or_an_answer_may_be_skipped(load: Load) -> None:
    rows = [{"question": f"{n}?", "answer": None if n % 3 == 0 else n} for n in range(9)]
    task = load(rows, skip_missing=True)
    assert len(task.test) == 6
    assert task.summary is not None and (task.summary.rows, task.summary.skipped) == (9, 3)
    assert "3 of 9 rows skipped: no question or no answer" in task.warnings


def test_several_answers_are_accepted_and_the_first_is_shown(load: Load) -> None:
    row = {"question": "Capital of France?", "answer": ["Paris", "City of Light", "Paris"]}
    (example,) = load([row], answer_parser="text").test
    assert (example.answer, example.accepted) == ("Paris", ("Paris", "City of Light"))
    task = load([row], answer_parser="text")
    assert task.grade("paris.", example) and task.grade("the city of light", example) is False
    assert task.grade("City of Light", example) and not task.grade("Rome", example)
    nested = {"question": "Who?", "answers": {"text": ["Ann", "Anna"], "start": [3, 3]}}
    (example,) = load([nested], answer_parser="text", fields={"answer": "answers.text"}).test
    assert example.accepted == ("Ann", "Anna")


@pytest.mark.parametrize(
    ("row", "config", "answer"),
    [
        ({"answer": 2, "c": ["2", "4", "1", "6"]}, {"answer_index": 0}, "c"),
        ({"answer": 2, "c": ["2", "4", "1", "6"]}, {"answer_index": 1}, "b"),
        ({"answer": 2, "c": ["2", "4", "1", "6"]}, {"answer_index": "none"}, "2"),
        ({"answer": "2", "c": {"text": ["x", "y"], "label": ["1", "2"]}}, "nested", "b"),
        ({"answer": "B", "c": {"text": ["x", "y"], "label": ["A", "B"]}}, "nested", "b"),
        ({"answer": 0, "c": ["B", "A"]}, {"answer_index": 0}, "(a)"),
        ({"answer": "b", "c": [0.25, 0.5, 1.5]}, {}, "b"),
        ({"answer": "0.5", "c": [0.25, 0.5, 1.5]}, {}, "0.5"),
        ({"answer": "y", "c": [{"name": "x"}, {"name": "y"}]}, "objects", "y"),
    ],
)
def test_answers_may_be_letters_texts_indices_or_names_of_choices(
    row: dict[str, Any], config: Any, answer: str, load: Load
) -> None:
    fields = {"choices": "c"}
    if config == "nested":
        config, fields = {}, {"choices": "c.text", "choice_labels": "c.label"}
    elif config == "objects":
        config, fields = {}, {"choices": "c.name"}
    (example,) = load(
        [{"question": "?", **row}], answer_parser="choice", fields=fields, **config
    ).test
    assert example.answer == answer
    assert Task("t", (), (), (), parser="choice").grade(answer, example)
    assert len(example.choices) == len(row["c"] if "text" not in row["c"] else row["c"]["text"])


def test_more_choices_than_letters_are_read_by_their_text(load: Load) -> None:
    choices = [f"topic {n}" for n in range(30)]
    task = load(
        [{"question": "?", "answer": "topic 27"}],
        answer_parser="choice",
        choices=choices,
        template={"choice": ""},
    )
    assert task.grade("It is topic 27.", task.test[0])
    assert not task.grade("topic 2", task.test[0])


def test_truth_values_are_text_but_for_the_parser_of_yes_and_no(load: Load) -> None:
    row = [{"question": "Is ice cold?", "answer": True}]
    labels = {"answer_parser": "label", "choices": ["true", "false"]}
    assert load(row, **labels).test[0].answer == "true"
    assert load(row, answer_parser="yes_no").test[0].answer == "yes"


def test_inline_examples_of_a_yaml_file_are_text(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Is ice cold?", "answer": "yes"}')
    (tmp_path / "task.yaml").write_text(
        "name: t\nsource: {name: jsonl, path: q.jsonl}\nanswer_parser: text\nsplits: {test: 1}\n"
        "inline_examples:\n"
        + "".join(
            f"  - {{question: '{n}?', answer: {answer}}}\n"
            for n, answer in enumerate(["yes", "3:30", "0010", "true", "1.50", "2024-02-30"])
        )
    )
    shown = [example.answer for example in load_task(tmp_path / "task.yaml").train]
    assert shown == ["yes", "3:30", "0010", "true", "1.50", "2024-02-30"]


def test_an_inline_example_without_a_question_is_refused(load: Load) -> None:
    inline = [{"question": "1?", "answer": 1}, {"question": " ", "answer": 2}]
    with pytest.raises(UserError, match="^task: inline_examples.2: question is empty"):
        load('{"question": "?", "answer": 3}', inline_examples=inline)


def test_half_of_a_surrogate_pair_is_replaced(load: Load) -> None:
    task = load('{"question": "Jane has 2 \\ud83d. How many?", "answer": 5}')
    assert task.test[0].question == "Jane has 2 \ufffd. How many?"


def test_a_tolerance_is_an_option_of_the_task(load: Load) -> None:
    row = [{"question": "?", "answer": 5.33}]
    assert not load(row).grade("5.333", load(row).test[0])
    close = load(row, relative_tolerance=1e-3)
    assert close.grade("5.333", close.test[0]) and not close.grade("5.34", close.test[0])
    close = load(row, absolute_tolerance=0.1)
    assert close.grade("5.43", close.test[0]) and not close.grade("5.44", close.test[0])


@pytest.mark.parametrize("key", ["relative_tolerance", "absolute_tolerance"])
@pytest.mark.parametrize("parser", ["text", "free_text", "label", "yes_no"])
def test_a_tolerance_without_effect_is_refused(load: Load, key: str, parser: str) -> None:
    with pytest.raises(
        UserError, match=f"task: {key}: the answer parser '{parser}' compares texts"
    ):
        load([{"question": "?", "answer": "yes"}], answer_parser=parser, **{key: 0.1})


GOLDS = {
    "number": st.integers().map(str) | st.floats(-1e9, 1e9).map(repr) | st.fractions().map(str),
    "label": st.sampled_from(["A", "A-", "B", "c#", "C"]),
    "yes_no": st.sampled_from(["yes", "No", "maybe", "YES."]),
    "text": st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip),
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(GOLDS)))
def test_golds_grade_right_against_themselves_and_wrong_against_others(
    load: Load, data: st.DataObject, parser: str
) -> None:
    answers = data.draw(st.lists(GOLDS[parser], min_size=1, max_size=4, unique=True))
    rows = [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]
    choices = {"choices": ["A", "A-", "B", "c#", "C"]} if parser == "label" else {}
    task = load(rows, answer_parser=parser, **choices)
    for example in task.test:
        assert example.answer in [answer.strip() for answer in answers]  # shown as written
        assert task.grade(example.answer, example)
        if parser == "label":
            assert not any(task.grade(one, example) for one in answers if one != example.answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, JSON, st.sampled_from(["number", "choice", "label", "yes_no", "text"]))
@hypothesis.example(None, {"\n": None}, "number")
def test_any_values_are_read_or_refused_in_one_line(
    load: Load, question: Any, answer: Any, parser: str
) -> None:
    try:
        load([{"question": question, "answer": answer}], answer_parser=parser)
    except UserError as problem:
        assert "\n" not in str(problem) and len(str(problem)) < 500


def read_rows(tmp_path: Path, rows: list[dict], **config: Any) -> list[Example]:
    """The examples of a file of multiple choice."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"name": "t", "source": {"name": "jsonl", "path": str(path)}, **config}
    task = load_task({"answer_parser": "choice", "splits": {"test": len(rows)}, **settings})
    return sorted(task.test, key=lambda one: one.id)


@pytest.mark.parametrize(
    ("row", "fields", "choices"),
    [
        ({"o": {"A": "sky", "B": "sea"}, "answer": "B"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": {"A": "sky", "B": "sea"}, "answer": "sea"}, {"choices": "o"}, ("sky", "sea")),
        ({"s": {"sky": 0, "sea": 1}}, {"choices": "s", "answer": "s"}, ("sky", "sea")),
        ({"s": {"3": 0, "1": 1}}, {"choices": "s", "answer": "s"}, ("3", "1")),
        ({"a": "sky", "b": "sea", "answer": "B"}, {"choices": ["a", "b"]}, ("sky", "sea")),
        # as tables hold lists
        ({"o": '["sky", "sea"]', "answer": "B"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": "['sky', 'sea']", "answer": "B"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": '{"A": "sky", "B": "sea"}', "answer": "B"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": "sky | sea", "answer": "sea"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": "a ) sky , b ) sea", "answer": "b"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": "(A) sky (B) sea", "answer": "B"}, {"choices": "o"}, ("sky", "sea")),
        # each with its own letter
        ({"o": ["A) sky", "B) sea"], "answer": "B"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": ["A. sky", "B. sea"], "answer": "B. sea"}, {"choices": "o"}, ("sky", "sea")),
        ({"o": ["B) sky", "A) sea"], "answer": "A) sea"}, {"choices": "o"}, ("B) sky", "A) sea")),
        ({"o": "sky; or;\nsea\n", "answer": "sea"}, {"choices": "o"}, ("sky; or;", "sea")),
        ({"a": "sky", "b": "sea", "c": "", "answer": "B"}, {"choices": ["a", "b", "c"]}, None),
        (
            {"o": ["sky", "sea"], "answers": ["B", "A"]},
            {"choices": "o", "answer": "answers.0"},
            None,
        ),
    ],
)
def test_choices_are_a_list_an_object_or_several_fields(
    tmp_path: Path, row: dict, fields: dict, choices: tuple[str, ...] | None
):
    (example,) = read_rows(tmp_path, [{"question": "?", **row}], fields=fields)
    assert example.choices == (choices or ("sky", "sea"))
    assert read_gold("choice", example.answer, example.choices) == "b"


@pytest.mark.parametrize(
    ("row", "fields", "line"),
    [
        ({"s": {"sky": 0, "sea": 0}}, {"choices": "s", "answer": "s"}, "no choice has a higher"),
        ({"o": ["x", "y"], "answer": [["x"]]}, {"choices": "o"}, "a list of lists"),
        ({"a": "sky", "b": "", "answer": "A"}, {"choices": ["a", "b"]}, "two or more choices"),
        ({"a": "", "b": "sky", "answer": "A"}, {"choices": ["a", "b"]}, "a choice is empty"),
        ({"o": {"A": "x", "B": {"t": "y"}}, "answer": "A"}, {"choices": "o"}, "'o.B' is an object"),
        ({"o": "['x', 'y'", "answer": "A"}, {"choices": "o"}, "two or more choices, found 1"),
        ({"o": ["x", "x"], "answer": "A"}, {"choices": "o"}, "occurs twice; skip_missing: true"),
    ],
)
def test_choices_that_cannot_be_asked_are_refused_by_line(
    tmp_path: Path, row: dict, fields: dict, line: str
):
    with pytest.raises(UserError, match=f"line 1: .*{line}"):
        read_rows(tmp_path, [{"question": "?", **row}], fields=fields)


def test_rows_with_a_choice_twice_can_be_left_out(tmp_path: Path):
    rows = [
        {"question": f"{n}?", "o": ["x", "x" if n == 1 else "y"], "answer": "B"} for n in range(3)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(
        {
            "name": "t",
            "source": {"name": "jsonl", "path": str(path)},
            "fields": {"choices": "o"},
            "answer_parser": "choice",
            "skip_missing": True,
            "splits": {"test": 2},
        }
    )
    assert len(task.test) == 2 and task.summary is not None and task.summary.skipped == 1
    assert "1 of 3 rows skipped: a choice occurs twice" in task.warnings


def test_columns_of_lists_are_rows(tmp_path: Path):
    path = tmp_path / "columns.json"
    path.write_text('{"question": ["a", "b"], "answer": ["1", "2"]}')
    assert [row.values for row in read_file(path)] == [
        {"question": "a", "answer": "1"},
        {"question": "b", "answer": "2"},
    ]
