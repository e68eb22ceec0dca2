"""What loading says about a task, how it divides labels, and extensions from outside."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.tasks.answers import PARSERS, AnswerParser, answers_match, read_answer, read_gold
from adapt_jax.tasks.answers.tolerance import Tolerance
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_question_format, load_task
from adapt_jax.tasks.sources import SOURCES, Row, SourceRequest
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import extension_version


def make_task(tmp_path: Path, rows: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "jsonl", "path": str(tmp_path / "q.jsonl")}
    return {"name": "t", "source": source, "splits": {"test": 1.0}, **config}


def test_the_summary_says_what_was_read(tmp_path: Path) -> None:
    rows = [{"question": f"{n % 8} is even?", "answer": n % 3 == 0} for n in range(12)]
    rows.append({"question": "x" * 500, "answer": None})
    task = load_task(make_task(tmp_path, rows, answer_parser="yes_no", skip_missing=True))
    summary = task.summary
    assert summary is not None
    assert (summary.rows, summary.skipped, summary.conflicts, summary.dropped) == (13, 1, 3, 0)
    test = summary.splits["test"]
    assert (test.examples, test.duplicates, test.answers) == (12, 4, {"no": 8, "yes": 4})
    assert (test.longest_question, test.longest_answer) == (10, 3)
    assert "3 questions occur with different answers" in task.warnings
    shape, line = summary.describe_splits()
    assert shape == "rows have the shape question/answer"
    assert line == (
        "test: 12 examples ('no' 8, 'yes' 4), longest question 10 characters, 4 questions twice"
    )
    assert "1 of 13 rows skipped: no question or no answer" in task.warnings
    assert type(summary).model_validate_json(summary.model_dump_json()) == summary


@pytest.mark.parametrize("counts", [{"a": 50, "b": 30, "c": 20}, {"a": 180, "b": 12, "c": 8}])
def test_a_labelled_file_is_divided_in_proportion_and_every_part_holds_every_label(
    counts: dict[str, int], tmp_path: Path
) -> None:
    answers = [label for label, count in counts.items() for _ in range(count)]
    rows = [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]
    config = make_task(tmp_path, rows, answer_parser="label", choices=list(counts))
    for seed in range(5):
        sizes = {"test": 0.3, "development": 0.2}
        task = load_task({**config, "splits": sizes, "seed": seed})
        for split in (task.test, task.development, task.train):
            found = Counter(example.answer for example in split)
            for label, count in counts.items():
                wanted = count * len(split) / len(rows)
                assert found[label] >= 1 and abs(found[label] - wanted) <= 1.5
        few = load_task({**config, "splits": {"test": 5}, "seed": seed})
        assert {example.answer for example in few.test} == set(counts)
        more = load_task({**config, "splits": {"test": 20}, "seed": seed})
        assert more.test[:5] == few.test  # a larger test split holds the smaller one


def test_a_template_without_an_end_and_a_space_before_the_answer_are_warned_of(
    tmp_path: Path,
) -> None:
    rows = [{"question": "1?", "answer": 1}]
    bare = load_task(make_task(tmp_path, rows, template={"question": "{question}\n"}))
    assert any("no stop string" in warning for warning in bare.warnings)
    ended = {"question": "{question}\n", "stop": "END"}
    assert load_task(make_task(tmp_path, rows, template=ended)).warnings == ()
    worded = load_task(make_task(tmp_path, rows, template={"question": "Task: {question}\n"}))
    assert worded.template.stop == ("\n\nTask:",) and worded.warnings == ()
    spaced = {"question": "Q: {question}\nA: ", "answer": "{answer}"}
    task = load_task(make_task(tmp_path, rows, template=spaced))
    assert any("space at the end" in warning for warning in task.warnings)
    assert task.template.format_question("1?") == "Q: 1?\nA:"
    assert task.template.format_answer("1") == " 1"


def test_ids_of_a_test_file_are_those_of_the_field_and_must_all_be_found(tmp_path: Path) -> None:
    rows = [{"key": n, "question": f"{n}?", "answer": n} for n in range(4)]
    config = make_task(tmp_path, rows, fields={"id": "key"}, splits={})
    config["source"]["test_ids"] = str(tmp_path / "ids.json")
    (tmp_path / "ids.json").write_text("[1, 2]")
    assert [example.id for example in load_task(config).test] == ["1", "2"]
    (tmp_path / "ids.json").write_text('["1", "9"]')
    with pytest.raises(UserError, match=r"1 of 2 ids match no row's field 'key', such as '9'"):
        load_task(config)


def test_questions_of_other_files_are_read_by_the_tasks_fields_and_options(tmp_path: Path) -> None:
    config = {
        "name": "t",
        "source": {"name": "csv", "path": "absent.csv", "delimiter": ";", "quote": "'"},
        "fields": {"question": "text"},
        "answer_parser": "label",
        "choices": ["a", "b"],
    }
    form = load_question_format(config)
    (tmp_path / "new.csv").write_text("text;n\n'one; two';1\n")
    (row,) = read_rows(tmp_path / "new.csv", form.file_options)
    assert form.read(row) == Example("t-2", "one; two", choices=("a", "b"))
    config["source"]["delimiter"] = 5
    with pytest.raises(UserError, match="^task: source: delimiter: Input should be a valid string"):
        load_question_format(config)


def test_a_file_of_a_home_folder_that_is_not_there_is_named_by_its_path(tmp_path: Path) -> None:
    config = make_task(tmp_path, [])
    for path in ("~/no_such_folder/q.jsonl", "~no_such_user/q.jsonl"):
        config["source"]["path"] = path
        with pytest.raises(UserError, match="no_such_.*/q.jsonl: no such file"):
            load_task(config)
    assert not Path("~").exists()


def test_choices_of_a_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "choices.json").write_text('\ufeff["a", 1.50]', encoding="utf-8")
    config = make_task(
        tmp_path, [{"question": "?", "answer": "1.50"}], answer_parser="label",
        choices=str(tmp_path / "choices.json"),
    )  # fmt: skip
    assert load_task(config).test[0].choices == ("a", "1.50")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_tolerance": -1}, "relative_tolerance"),
        ({"relative_tolerance": float("nan")}, "relative_tolerance"),
        ({"absolute_tolerance": -1}, "absolute_tolerance"),
        ({"absolute_tolerance": float("inf")}, "absolute_tolerance"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -1}, "seed"),
        ({"answer_index": 2}, "answer_index"),
        ({"answer": "number"}, "unknown key 'answer'"),
        ({"worked": []}, "unknown key 'worked'"),
        ({"remove": "x"}, "unknown key 'remove'"),
        ({"fields": {"choices": "c.text"}}, "no field 'c.text'"),
        ({"source": {"name": "jsonl", "path": "q.jsonl", "delimiter": ";"}}, "'delimiter' does"),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = make_task(tmp_path, [{"question": "?", "answer": 1}])
    with pytest.raises(UserError, match=message):
        load_task({**config, **change}, tmp_path)


@pytest.fixture
def plugins() -> Iterator[None]:
    """A parser and a source as a plug-in registers them."""

    @PARSERS.register("last_word")
    def last_word(text: str, choices: Any) -> str | None:
        return text.split()[-1].strip(".").lower() if text.split() else None

    @SOURCES.register("squares")
    def squares(request: SourceRequest) -> Any:
        last = request.options.get("last", 9)
        rows = [Row(f"square {n}", n, {"question": f"{n}^2?", "answer": f"is {n * n}"})
                for n in range(last)]  # fmt: skip
        return {"all": rows}

    yield
    PARSERS._entries.pop("last_word")
    SOURCES._entries.pop("squares")


def test_a_parser_and_a_source_from_outside_work_like_any_other(plugins: None) -> None:
    config = {
        "name": "t",
        "source": {"name": "squares", "last": 6},
        "answer_parser": "last_word",
        "splits": {"test": 3},
    }
    task = load_task(config)
    assert (len(task.train), len(task.test), task.source) == (3, 3, "squares")
    example = task.test[0]
    assert task.grade(f"It is {example.answer}.", example) and not task.grade("It is 5", example)
    assert read_answer("last_word", "So. The answer is one Two.", Template()) == "two"
    assert extension_version(PARSERS["last_word"])[0] == 1


def test_a_parser_names_its_version_and_how_golds_and_equality_are_read() -> None:
    parser = AnswerParser(
        lambda text, choices: text.strip(),
        read_gold=lambda text, choices: text if text.isupper() else None,
        are_equal=lambda one, other, tolerance: one.lower() == other.lower(),
        version=7,
    )
    PARSERS.register("shout")(parser)
    try:
        assert extension_version(PARSERS["shout"])[0] == 7
        assert read_gold("shout", "no") is None and read_gold("shout", "NO") == "NO"
        assert answers_match("shout", "no", ["NO"]) and not answers_match("shout", "yes", ["NO"])
    finally:
        PARSERS._entries.pop("shout")


@pytest.mark.parametrize(
    ("gold", "said", "equal"),
    [
        ("0.5", "$\\frac{2}{4}$", True),
        ("$1+x$", "So it is $x+1$.", True),
        ("$2\\sqrt{2}$", "\\boxed{\\sqrt{8}}", True),
        ("$2\\sqrt{2}$", "$3$", False),
        ("$\\{1,2\\}$", "$\\{2, 1\\}$", True),
        ("$(1,2)$", "$(1,3)$", False),
    ],
)
def test_mathematics_is_compared_as_math_verify_does(gold: str, said: str, equal: bool) -> None:
    pytest.importorskip("math_verify")
    assert answers_match("math", said, [gold]) == equal
    canonical = PARSERS["math"](said)
    assert canonical is not None and answers_match("math", canonical, [gold]) == equal


def test_mathematical_numbers_have_a_tolerance() -> None:
    pytest.importorskip("math_verify")
    near = Tolerance(relative=1e-2)
    for said, equal in (
        ("$\\frac{22}{7}$", True),
        ("3.142", True),
        ("$3.2$", False),
        ("$x$", False),
    ):
        assert answers_match("math", said, ["3.14"], tolerance=near) == equal
        assert not answers_match("math", said, ["3.14"])


def test_mathematics_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    with pytest.raises(UserError, match=r"pip install 'adapt-jax\[math\]'"):
        PARSERS["math"]("$7777$")
