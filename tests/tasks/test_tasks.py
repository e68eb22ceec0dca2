"""A task is a file: its fields, splits, grades, and what is told when it is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import TaskConfig, load_task
from adapt_jax.tasks.sources import SOURCES, SPLITS
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import read_yaml, validate
from adapt_jax.utils.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tasks"
MakeTask = Callable[..., dict[str, Any]]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """Writes rows to a file and gives the mapping of a task that reads them."""

    def make(rows: list[dict[str, Any]] | int = 20, **config: Any) -> dict[str, Any]:
        if isinstance(rows, int):
            rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(rows)]
        path = tmp_path / "quiz.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        source = {"name": "jsonl", "path": str(path)}
        return {"name": "quiz", "source": source, "splits": {"test": 5}, **config}

    return make


def questions(examples: Any) -> list[str]:
    return [example.question for example in examples]


def test_a_file_is_divided_by_the_seed_into_splits_that_share_nothing(make_task: MakeTask) -> None:
    config = make_task(splits={"test": 5, "development": 0.25})
    task = load_task(config)
    assert [len(getattr(task, split)) for split in SPLITS] == [10, 5, 5]
    everything = questions([*task.train, *task.development, *task.test])
    assert len(set(everything)) == 20
    assert load_task(config) == task
    assert questions(load_task({**config, "seed": 1}).test) != questions(task.test)


def test_a_larger_test_split_holds_the_smaller_one(make_task: MakeTask) -> None:
    small = load_task(make_task(splits={"test": 4, "development": 3}))
    large = load_task(make_task(splits={"test": 8}))
    assert questions(large.test)[:4] == questions(small.test)


def test_splits_with_their_own_files_keep_them_and_may_be_taken_in_part(
    make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_task()
    other = [{"question": f"What is {n} + 2?", "answer": n + 2} for n in range(6)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, other)))
    config["source"] = {"name": "jsonl", "train": "quiz.jsonl", "test": "test.jsonl"}
    task = load_task({**config, "splits": {}}, tmp_path)
    assert questions(task.test) == [row["question"] for row in other]
    assert (len(task.train), len(task.development)) == (20, 0)
    assert (task.train[0].id, task.test[0].id) == ("train-1", "test-1")
    part = load_task({**config, "splits": {"test": 0.5, "development": 3, "train": 10}}, tmp_path)
    assert [len(getattr(part, split)) for split in SPLITS] == [10, 3, 3]
    assert set(questions(part.test)) <= set(questions(task.test))


def test_a_yaml_file_finds_its_data_beside_itself(make_task: MakeTask, tmp_path: Path) -> None:
    config = make_task()
    config["source"]["path"] = "quiz.jsonl"
    (tmp_path / "quiz.yaml").write_text(json.dumps(config))  # JSON is YAML
    task = load_task(tmp_path / "quiz.yaml")
    assert (task.name, task.source, len(task.test)) == ("quiz", "jsonl", 5)


def test_test_questions_in_the_training_split_are_refused_unless_they_are_allowed(
    make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_task()
    config["source"] = {"name": "jsonl", "train": "quiz.jsonl", "test": "test.jsonl"}
    leaked = {"question": " what is  3 + 1?", "answer": 4}
    (tmp_path / "test.jsonl").write_text(json.dumps(leaked))
    with pytest.raises(
        UserError, match=r"quiz\.jsonl, line 4: 1 train question is in the test"
    ) as e:
        load_task({**config, "splits": {}}, tmp_path)
    assert "that of" in str(e.value) and "test.jsonl, line 1" in str(e.value)
    task = load_task({**config, "splits": {}, "allow_overlap": "drop"}, tmp_path)
    assert len(task.train) == 19
    assert "What is 3 + 1?" not in questions(task.train)
    assert task.warnings == ("1 train questions dropped: they stand in a later split too",)
    other = {"question": "How much is 1 + 1?", "answer": 2}
    (tmp_path / "test.jsonl").write_text(f"{json.dumps(leaked)}\n{json.dumps(other)}")
    task = load_task({**config, "splits": {}, "allow_overlap": True}, tmp_path)
    assert len(task.train) == 20
    assert task.warnings == ("1 train questions are in the test split (allowed)",)


def test_patterns_cut_reasoning_and_answer_out_of_one_field(make_task: MakeTask) -> None:
    row = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\nSo.\n#### 1,024"}
    task = load_task(
        make_task(
            [row],
            splits={"test": 1},
            reasoning_pattern=r"^(.*?)\s*####",
            answer_pattern=r"####\s*(.+)$",
            strip_pattern="<<[^>]*>>",
        )
    )
    assert task.test[0].reasoning == "48/2 = 24 clips.\nSo."
    assert task.test[0].answer == "1,024"
    assert task.grade("1024", task.test[0])


def test_fields_are_named_or_joined_by_a_text(make_task: MakeTask) -> None:
    row = {
        "key": 7,
        "context": ["one {q}", "two"],
        "q": "Is it?",
        "a": True,
        "why": "So.",
        "k": "x",
    }
    fields = {
        "id": "key",
        "question": "{context}\n{q}",
        "answer": "a",
        "reasoning": "why",
        "category": "k",
    }
    task = load_task(make_task([row], splits={"test": 1}, fields=fields, answer_parser="yes_no"))
    assert list(task.test) == [Example("7", "one {q}\ntwo\nIs it?", "yes", "So.", (), "x")]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("43.0", "43"),
        ("0.6666666667", "2/3"),
        ("9.43", "9.43"),
        ("0.30000000000000004", "0.3"),
        ("1e-7", "0.0000001"),
        ("14053029.666666666", "42159089/3"),
        ("3244047.0999999996", "3244047.1"),
        ("2.5", "5/2"),
        ("1.50", "1.5"),
    ],
)
def test_numbers_are_shown_as_their_file_writes_them_and_graded_by_value(
    written: str, said: str, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_task(splits={"test": 1})
    (tmp_path / "quiz.jsonl").write_text(f'{{"question": "x?", "answer": {written}}}')
    task = load_task(config)
    assert task.test[0].answer == written
    assert task.grade(said, task.test[0]) and task.grade(written, task.test[0])
    assert not task.grade(f"{float(written) + 1}", task.test[0])


def test_fixed_choices_are_given_to_each_example_and_named_in_the_instruction(
    make_task: MakeTask, tmp_path: Path
) -> None:
    rows = [{"question": f"Colour {n}?", "answer": "Dark red"} for n in range(3)]
    (tmp_path / "colours.json").write_text('["dark_red", "blue"]')
    config = make_task(
        rows,
        splits={"test": 2},
        choices="colours.json",
        answer_parser="label",
        instruction="One of: {choices}.",
    )
    task = load_task(config, tmp_path)
    assert task.instruction == "One of: dark_red, blue."
    assert task.test[0].choices == ("dark_red", "blue")
    assert task.grade("dark red", task.test[0])
    assert not task.grade("blue", task.test[0])


def test_inline_examples_stand_first_in_the_training_split(make_task: MakeTask) -> None:
    inline = [{"question": "Two and two?", "reasoning": "2 + 2 = 4.", "answer": 4}]
    assert not load_task(make_task()).has_reasoning
    task = load_task(make_task(inline_examples=inline))
    assert task.has_reasoning
    assert task.train[0] == Example("inline-1", "Two and two?", "4", "2 + 2 = 4.")
    assert len(task.train) == 16


def test_the_template_of_a_task_is_its_own(make_task: MakeTask) -> None:
    template = {"question": "Question: {question}\nAnswer:", "stop": "END"}
    task = load_task(make_task(template=template))
    assert task.template.format_question("Why?") == "Question: Why?\nAnswer:"
    assert task.template.stop == ("END",)


def test_a_grade_compares_canonical_answers_and_abstaining_is_wrong() -> None:
    example = Example("1", "How much?", "1234.5")
    task = Task("money", (), (), (example,))
    assert task.grade("$1,234.50.", example)
    assert not task.grade("1234", example)
    assert not task.grade("much", example)
    assert not task.grade(None, example)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instructon": "x"}, r"task: unknown key 'instructon'; did you mean 'instruction'"),
        ({"splits": {"tset": 5}}, r"unknown key 'splits.tset'; did you mean 'test'"),
        ({"template": {"qestion": "x"}}, r"template: 'qestion' is none of .*mean 'question'"),
        ({"template": {"question": "x"}}, r"task: template.question: lacks \{question\}"),
        ({"source": {"name": "jsnl"}}, r"source.name: unknown source 'jsnl'; did you mean 'jsonl'"),
        ({"answer_parser": "numbr"}, r"answer_parser: unknown .* 'numbr'; did you mean 'number'"),
        ({"answer_pattern": "("}, r"answer_pattern: '\(' is no regular expression"),
        ({"answer_pattern": "x"}, r"answer_pattern: expected one group, found 0"),
        ({"answer_pattern": "#(.*)"}, r"quiz\.jsonl, line 1: answer_pattern '#\(\.\*\)' is not"),
        ({"fields": {"question": "qestion"}}, r"line 1: no field 'qestion'; it has: question, a"),
        (
            {"fields": {"answer": "question"}, "answer_parser": "yes_no"},
            r"line 1: the answer 'What is",
        ),
        ({"splits": {"test": -1}}, r"splits.test: expected a number of .*, found -1"),
        ({"splits": {"test": 1.5}}, r"splits.test: expected a number of .*, found 1.5"),
        ({"splits": {}}, r"splits.test: expected how many of the 20 examples"),
        ({"splits": {"test": 0}}, r"the test split is empty"),
        ({"splits": {"test": 21}}, r"splits.test: asks for 21 examples, there are 20"),
        ({"splits": {"test": 1.0, "train": 1}}, r"splits.train: asks for 1 examples, there are 0"),
        ({"splits": {"test": 5, "development": 0.001}}, r"the development split is empty"),
    ],
)
def test_a_wrong_task_is_refused_in_one_line(
    change: dict[str, Any], message: str, make_task: MakeTask
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_task(make_task(**change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["answer_pattern", "reasoning_pattern", "strip_pattern"])
def test_a_pattern_that_does_not_end_is_refused(
    key: str, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt_jax.utils.patterns.MAX_MATCH_SECONDS", 0.1)
    rows = [{"question": f"{n}?", "answer": "7", "why": "a" * 60 + "b"} for n in range(4)]
    fields = {"answer": "why" if key == "answer_pattern" else "answer", "reasoning": "why"}
    slow = "(?:a|a)*$" if key == "strip_pattern" else "^((?:a|a)*)$"
    config = make_task(rows, splits={"test": 1}, fields=fields, **{key: slow})
    with pytest.raises(UserError, match=f"{key}: the regular expression .* takes too long"):
        load_task(config)


def test_an_empty_field_and_an_id_that_stands_twice_are_named(make_task: MakeTask) -> None:
    twice = [{"question": f"{n}?", "answer": n, "id": "x"} for n in range(2)]
    with pytest.raises(UserError, match=r"line \d: fields.id: the id 'x' is that of .*line \d"):
        load_task(make_task(twice, splits={"test": 1}, fields={"id": "id"}))
    empty = [{"question": " ", "answer": 1}]
    with pytest.raises(UserError, match=r"line 1: field 'question' is empty"):
        load_task(make_task(empty, splits={"test": 1}))


def test_a_test_split_that_is_the_training_split_is_refused(
    make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_task()
    path = config["source"].pop("path")
    config["source"].update(train=path, test=path)
    with pytest.raises(UserError, match="quiz.jsonl is named for both train and test"):
        load_task({**config, "splits": {}})
    copy = tmp_path / "copy.jsonl"
    copy.write_text(Path(path).read_text())
    config = {**config, "source": {"train": path, "test": str(copy)}, "splits": {}}
    with pytest.raises(UserError, match="20 train questions are in the test split, too: all of it"):
        load_task(config)
    with pytest.raises(UserError, match="every test question is in the training split"):
        load_task({**config, "allow_overlap": True})
    with pytest.raises(UserError, match="train split is empty .20 train questions dropped"):
        load_task({**config, "allow_overlap": "drop"})


def test_an_inline_example_that_is_a_test_question_is_refused(make_task: MakeTask) -> None:
    inline = [{"question": "what is 3 + 1?", "answer": 4}]
    config = make_task(splits={"test": 1.0, "train": 0}, inline_examples=inline)
    with pytest.raises(UserError, match="inline_examples: 1 train question is in the test split"):
        load_task(config)


def test_every_task_file_of_the_project_is_valid() -> None:
    files = sorted(CONFIGS.glob("*.yaml"))
    assert len(files) >= 8
    for path in files:
        settings = validate(TaskConfig, read_yaml(path), str(path))
        assert settings.name == path.stem
        assert settings.source["name"] in SOURCES and settings.answer_parser in PARSERS


def test_the_embedded_task_loads_from_its_file() -> None:
    task = load_task(CONFIGS / "arithmetic.yaml")
    assert [len(getattr(task, split)) for split in SPLITS] == [6000, 200, 600]
    assert task.has_reasoning
    assert task.source == "arithmetic"
    assert all(task.grade(example.answer, example) for example in task.test)


def test_the_embedded_task_has_only_the_splits_that_are_asked_for() -> None:
    config = {"name": "sums", "source": {"name": "arithmetic"}}
    task = load_task({**config, "splits": {"test": 3, "train": 0}, "seed": 5})
    assert [len(getattr(task, split)) for split in SPLITS] == [0, 0, 3]
    with pytest.raises(UserError, match="the test split is empty"):
        load_task({**config, "splits": {"train": 3}})


@pytest.fixture
def fetched(shared: Path, tmp_path: Path) -> Path:
    """The task files of a clone whose data was fetched."""
    (tmp_path / "data").symlink_to(shared / "data")
    shutil.copytree(CONFIGS, tmp_path / "configs" / "tasks")
    return tmp_path / "configs" / "tasks"


@pytest.mark.parametrize(
    ("name", "test", "reasoning"),
    [
        ("multiarith", 300, True),
        ("addsub", 200, False),
        ("singleeq", 250, False),
        ("gsm8k", 1319, True),
        ("banking77", 3080, False),
        ("pubmedqa", 500, True),
    ],
)
def test_real_tasks_load_and_grade_their_own_answers(
    name: str, test: int, reasoning: bool, fetched: Path
) -> None:
    task = load_task(fetched / f"{name}.yaml")
    assert (task.name, len(task.test), task.has_reasoning) == (name, test, reasoning)
    assert len(task.train) > 100 and len(task.development) > 40
    assert all(task.grade(example.answer, example) for example in task.test)
    format_answer = task.template.format_answer
    for example in task.test:
        written = format_answer(example.answer, example.reasoning)
        _, stated = task.template.split_reasoning(written)
        assert task.grade(stated, example)


def test_gsm8k_reasoning_has_no_calculator_marks_and_no_answer_line(fetched: Path) -> None:
    task = load_task(fetched / "gsm8k.yaml")
    for example in (*task.train, *task.test):
        assert "<<" not in example.reasoning and "####" not in example.reasoning
    commas = [example for example in task.test if "," in example.answer]
    assert commas and all(task.grade(one.answer.replace(",", ""), one) for one in commas)
