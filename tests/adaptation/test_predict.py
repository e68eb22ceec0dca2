"""Questions in bulk: every form of file, one answer per line, nothing lost and nothing mixed."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.predict import predict, read_questions
from adapt_jax.adaptation.storage import read_question_format
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.fields.example_reader import Fields
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.question_format import QuestionFormat
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.line_appender import LineAppender

CSV = 'text;label;key\n"How many; 2 or 3?";yes;a1\nIs it 010?;no;a2\nAnd 1.50?;yes;a3\n'
TASK: dict[str, Any] = {
    "name": "made",
    "source": {"name": "csv", "path": "all.csv", "delimiter": ";"},
    "fields": {"question": "text", "answer": "label"},
    "choices": ["yes", "no"],
    "answer_parser": "label",
    "splits": {"test": 3},
}


@pytest.fixture
def adaptation(tiny, monkeypatch: pytest.MonkeyPatch) -> Adaptation:
    """An adaptation that answers every question with 7."""
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 7."))
    return Adaptation("zero_shot", Prompt(generation_config=GenerationConfig()), tiny)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_of_text_are_questions(tmp_path: Path):
    (tmp_path / "questions.txt").write_text("Why?\n\nHow so?\n")
    questions = read_questions(tmp_path / "questions.txt")
    assert [(one.id, one.question) for one in questions] == [("1", "Why?"), ("3", "How so?")]


def test_questions_may_lack_a_field_that_others_have(tmp_path: Path):
    rows = [{"instruction": "Sing."}, {"instruction": "Add.", "input": "1 1"}]
    source = tmp_path / "new.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = Fields(question="{instruction}\n{input}")
    questions = read_questions(source, question_format=QuestionFormat(name="t", fields=fields))
    assert [one.question for one in questions] == ["Sing.", "Add.\n1 1"]
    source.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UserError, match="nor the fields of the adaptation's task"):
        read_questions(source, question_format=QuestionFormat(name="t", fields=fields))


def test_questions_are_read_as_their_task_reads_them(tmp_path: Path):
    source = tmp_path / "all.csv"
    source.write_text(CSV)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    task = load_task(tmp_path / "task.yaml")
    for given in (tmp_path / "task.yaml", TASK):
        questions = read_questions(source, given)
        assert {(one.id, one.question, one.choices) for one in questions} == {
            (one.id, one.question, one.choices) for one in task.test
        }
    source.write_text("text;key\nWhy?;a9\n")  # there need be no answers
    fields = TASK["fields"] | {"id": "key"}
    [one] = read_questions(source, TASK | {"fields": fields})
    assert (one.id, one.question, one.choices) == ("a9", "Why?", ("yes", "no"))
    with pytest.raises(UserError, match="all.csv, line 2: no field 'label'"):
        read_questions(source, TASK | {"fields": {"question": "label"}})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,question\nx,How many?\ny,Why?\n"),
        ("a.tsv", "id\tquestion\nx\tHow many?\ny\tWhy?\n"),
        ("a.jsonl", '{"id": "x", "question": "How many?"}\n{"id": "y", "question": "Why?"}\n'),
        ("a.json", '[{"id": "x", "question": "How many?"}, {"id": "y", "question": "Why?"}]'),
    ],
)
def test_files_of_every_form_are_read_without_a_task(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    questions = read_questions(tmp_path / name)
    assert [(one.id, one.question) for one in questions] == [("x", "How many?"), ("y", "Why?")]


def test_half_a_surrogate_pair_becomes_the_replacement_character(
    adaptation: Adaptation, tmp_path: Path
):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a \\ud83d b"}\n{"question": "c"}\n')
    assert predict(lambda: adaptation, source, target) == (2, 0)
    assert [row["question"] for row in read(target)] == ["a \ufffd b", "c"]
    assert predict(lambda: adaptation, source, target) == (0, 2)  # it is known again


def test_every_line_says_whose_answer_it_is(adaptation: Adaptation, tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "deep" / "out.jsonl"
    source.write_text('{"question": "a", "choices": ["7", "8"]}\n{"question": "b"}\n')
    predict(lambda: adaptation, source, target)
    rows = read(target)
    assert [row["answer"] for row in rows] == ["7", "7"] and rows[0]["choices"] == ["7", "8"]
    assert len({row["identity"] for row in rows}) == 1
    other = Adaptation("zero_shot", Prompt(instruction="Solve it."), adaptation.model)
    with pytest.raises(UserError, match="out.jsonl, line 1: answered by another adaptation"):
        predict(lambda: other, source, target)


@pytest.mark.parametrize(
    "change",
    [
        {"answer": {"a": None}},
        {"prompt_tokens": -1},
        {"candidates": None},
        {"vote": []},
        {"too_long": "perhaps"},
        {"choices": "ab"},
        {"unknown": 1},
        {"id": 5},
    ],
)
def test_a_line_that_is_no_answer_is_refused(
    adaptation: Adaptation, tmp_path: Path, change: dict[str, Any]
):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a"}\n{"question": "b"}\n')
    predict(lambda: adaptation, source, target)
    first, second = read(target)
    before = f"{json.dumps(first)}\n{json.dumps(second | change)}\n"
    target.write_text(before)
    with pytest.raises(UserError, match="out.jsonl, line 2: not an answer of an earlier run"):
        predict(lambda: adaptation, source, target)
    assert target.read_text() == before


@pytest.mark.parametrize("target", ["in.jsonl", ".", "file/out.jsonl", "link.jsonl"])
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_loaded(
    tmp_path: Path, target: str
):
    (tmp_path / "in.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link.jsonl").symlink_to("/dev/full")

    def load() -> Adaptation:
        raise AssertionError("loaded")

    with pytest.raises(UserError, match=str(tmp_path)):
        predict(load, tmp_path / "in.jsonl", tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in.jsonl", "link.jsonl"]


def test_a_file_with_the_columns_of_the_adaptations_own_task_needs_no_task(tmp_path: Path):
    (tmp_path / "all.csv").write_text(CSV)
    form = load_task(TASK, tmp_path).question_format
    questions = read_questions(tmp_path / "all.csv", None, form)
    assert questions == read_questions(tmp_path / "all.csv", TASK)
    assert questions[0].question == "How many; 2 or 3?" and questions[0].choices == ("yes", "no")
    # another kind of file, or another delimiter, is read by its own form
    (tmp_path / "q.jsonl").write_text('{"text": "Why?", "id": "a"}\n{"text": "Who?", "id": null}\n')
    (tmp_path / "q.csv").write_text("text,label\nWhy?,yes\n")
    (tmp_path / "plain.jsonl").write_text('{"question": "Why?", "choices": ["a", "b"]}\n')
    (tmp_path / "other.csv").write_text("words,label\nWhy?,yes\n")
    found = read_questions(tmp_path / "q.jsonl", None, form)
    assert [(one.id, one.question) for one in found] == [("a", "Why?"), ("made-2", "Who?")]
    [one] = read_questions(tmp_path / "q.csv", None, form)
    assert (one.id, one.question, one.choices) == ("made-2", "Why?", ("yes", "no"))
    [one] = read_questions(tmp_path / "plain.jsonl", None, form)
    assert (one.id, one.question, one.choices) == ("1", "Why?", ("a", "b"))
    with pytest.raises(UserError, match=r"line 2: no field 'question', nor .* \(text\); it has: w"):
        read_questions(tmp_path / "other.csv", None, form)


def test_the_format_of_questions_is_saved_with_the_adaptation(
    adaptation: Adaptation, tmp_path: Path
):
    (tmp_path / "all.csv").write_text(CSV)
    adaptation.question_format = load_task(TASK, tmp_path).question_format
    adaptation.save(tmp_path / "saved")
    assert Adaptation.load(tmp_path / "saved").question_format == adaptation.question_format
    assert read_question_format(tmp_path / "saved") == adaptation.question_format
    description = tmp_path / "saved" / "adaptation.json"
    saved = json.loads(description.read_text())
    saved["question_format"]["fields"] = {"questions": "text"}
    description.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="question_format: unknown key 'fields.questions'"):
        read_question_format(tmp_path / "saved")


def test_a_full_disk_is_one_line_and_keeps_the_answers_that_fit(
    adaptation: Adaptation, tmp_path: Path
):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"question": "What is {n}?"}}\n' for n in range(8)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1600, hard))
        with pytest.raises(UserError) as error:
            predict(lambda: adaptation, source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value) == f"{target}: cannot be written (File too large)"
    kept = len(read(target))
    assert 0 < kept < 8 and sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
    ]
    assert predict(lambda: adaptation, source, target) == (8 - kept, kept)
    assert [row["question"] for row in read(target)] == [f"What is {n}?" for n in range(8)]


def test_two_runs_do_not_write_one_file(adaptation: Adaptation, tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a"}\n')
    with LineAppender(target):
        with pytest.raises(UserError, match="out.jsonl: another process is writing it"):
            predict(lambda: adaptation, source, target)
