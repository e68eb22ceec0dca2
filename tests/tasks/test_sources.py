"""Sources of examples, and the one line that each kind of bad input gets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.sources import SOURCES, SourceRequest
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.utils.errors import UserError

NONE: dict[str, Any] = {"train": None, "development": None, "test": None}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_jsonl_rows_know_their_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"q": "line\\u2028one"}\n\n{"q": "two"}\n')
    rows = read_rows(path)
    assert [row.where for row in rows] == [f"{path}, line 1", f"{path}, line 3"]
    assert [row.values["q"] for row in rows] == ["line\u2028one", "two"]


@pytest.mark.parametrize(
    "content",
    [
        '[{"q": 1}, {"q": 2}]',
        '{"data": [{"q": 1}, {"q": 2}]}',
        '{"version": "1", "examples": [{"q": 1}, {"q": 2}]}',
        '{"x": {"q": 1}, "y": {"q": 2}}',
    ],
)
def test_json_is_a_list_a_list_in_an_object_or_a_mapping_by_id(
    content: str, tmp_path: Path
) -> None:
    rows = read_rows(write(tmp_path / "a.json", content))
    assert [row.values["q"] for row in rows] == [1, 2]
    if content.startswith('{"x"'):
        assert [row.values["id"] for row in rows] == ["x", "y"]


def test_a_csv_line_ends_at_a_line_break_and_not_at_other_separators(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "q,a\none\u2028two\x85three\x0c,1\nfour,2\n")
    assert [row.values["q"] for row in read_rows(path)] == ["one\u2028two\x85three\x0c", "four"]


def test_csv_cells_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'q,a\n"one, ""two""\nthree",1\nfour,2\n')
    rows = read_rows(path)
    assert [dict(row.values) for row in rows] == [
        {"q": 'one, "two"\nthree', "a": "1"},
        {"q": "four", "a": "2"},
    ]
    assert rows[1].where == f"{path}, line 4"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"q": 1}\n{"q": \n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: expected an object, found list"),
        ("a.json", '[{"q": 1},\n]', r"a\.json, line 2: not valid JSON"),
        ("a.json", "3", r"a\.json: expected a list of objects"),
        ("a.json", "[3]", r"a\.json, record 1: expected an object, found int"),
        ("a.csv", "q,a\n1,2\n3\n", r"a\.csv, line 3: 1 columns, but the header has 2"),
    ],
)
def test_malformed_content_is_named_by_file_and_line(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path / name, content))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"q": "\xff"}')
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: not UTF-8 text"):
        read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "quiz.json"}, r"quiz\.json: no such file; did you mean 'quiz.jsonl'"),
        ({}, r"expected either 'path' or some of train, development, test"),
        ({"path": "quiz.jsonl", "test": "quiz.jsonl"}, r"expected either 'path' or some of"),
        ({"pth": "quiz.jsonl"}, r"source: unknown key 'pth'; did you mean 'path'"),
        ({"test": "quiz.jsonl", "test_ids": "quiz.jsonl"}, r"'test_ids' divides 'path'"),
        ({"path": "quiz.jsonl", "test_ids": "quiz.jsonl"}, r"quiz\.jsonl, line 2: not valid JSON"),
    ],
)
def test_wrong_options_of_a_local_source_are_named(
    options: dict[str, str], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "quiz.jsonl", '{"q": 1}\n{"q": 2}\n')
    with pytest.raises(UserError, match=message):
        SOURCES["jsonl"](SourceRequest(options, tmp_path, 0, NONE))


def test_test_ids_divide_one_file(tmp_path: Path) -> None:
    write(tmp_path / "all.json", json.dumps({str(n): {"q": n} for n in range(4)}))
    write(tmp_path / "ids.json", '{"1": "yes", "2": "no"}')
    options = {"path": "all.json", "test_ids": "ids.json"}
    rows = SOURCES["json"](SourceRequest(options, tmp_path, 0, NONE))
    assert {split: [row.values["q"] for row in rows[split]] for split in rows} == {
        "train": [0, 3],
        "test": [1, 2],
    }


class FruitQuiz(tfds.core.GeneratorBasedBuilder):
    """A little dataset with text, a class label, a truth value and a list."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {
            "text": tfds.features.Text(),
            "fruit": tfds.features.ClassLabel(names=["apple", "pear"]),
            "ripe": tfds.features.Scalar(np.bool_),
            "options": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(8), "validation": self._generate_examples(4)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for n in range(count):
            fruit = ("apple", "pear")[n % 2]
            yield (
                n,
                {
                    "text": f"Which of {count} is number {n} {{é}}?",
                    "fruit": fruit,
                    "ripe": n % 2 == 0,
                    "options": ["pear", "apple"],
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("fruit_quiz", data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return folder


def fruit_task(prepared: Path, **options: Any) -> dict[str, Any]:
    return {
        "name": "fruit",
        "source": {
            "name": "tfds",
            "dataset": "fruit_quiz",
            "data_dir": str(prepared),
            "train": "train[:50%]",
            "test": "validation",
            **options,
        },
        "fields": {"question": "text", "answer": "fruit", "choices": "options"},
        "answer_parser": "label",
    }


def test_tfds_gives_text_labels_and_lists_without_tensorflow(prepared: Path) -> None:
    task = load_task(fruit_task(prepared))
    assert (len(task.train), len(task.development), len(task.test)) == (4, 0, 4)
    assert task.test[1].question == "Which of 4 is number 1 {é}?"
    assert task.test[1].answer == "pear"
    assert task.test[1].choices == ("pear", "apple")
    assert task.test[1].id == "test-2"


def test_tfds_truth_values_are_yes_and_no(prepared: Path) -> None:
    fields = {"question": "text", "answer": "ripe"}
    task = load_task({**fruit_task(prepared), "fields": fields, "answer_parser": "yes_no"})
    assert [example.answer for example in task.test] == ["yes", "no", "yes", "no"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "fruit_qiz"}, r"no TensorFlow dataset 'fruit_qiz'; did you mean 'fruit_quiz'"),
        ({"test": "dev"}, r"tfds fruit_quiz: no split 'dev'.*it has: train, validation"),
        ({"split": "train"}, r"expected either 'split' or some of train, development, test"),
    ],
)
def test_wrong_names_of_a_tfds_source_are_reported(
    options: dict[str, str], message: str, prepared: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load_task(fruit_task(prepared, **options))


def test_a_tfds_dataset_that_cannot_be_read_says_how_to_prepare_it(tmp_path: Path) -> None:
    command = "tfds build fruit_quiz --file_format=array_record"
    with pytest.raises(UserError, match=f"not prepared in .*{command}"):
        load_task(fruit_task(tmp_path))
    builder = tfds.builder("fruit_quiz", data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    info = tmp_path / "fruit_quiz" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=f"prepared as TFRecord.*{command}"):
        load_task(fruit_task(tmp_path))


def test_arithmetic_draws_what_the_sizes_ask_for_by_its_seed() -> None:
    def draw(seed: int) -> Any:
        sizes = {"train": 6, "development": 2, "test": 3}
        return SOURCES["arithmetic"](SourceRequest({}, Path(), seed, sizes))

    drawn = draw(1)
    assert {split: len(drawn[split]) for split in drawn} == {
        "train": 6,
        "development": 2,
        "test": 3,
    }
    assert draw(1) == drawn
    assert draw(2) != drawn


@pytest.mark.parametrize(
    ("options", "sizes", "message"),
    [
        ({"path": "x"}, NONE, "source: unknown key 'path'"),
        ({}, {**NONE, "test": 0.5}, "splits.test: the arithmetic source needs a number, not 0.5"),
    ],
)
def test_wrong_options_of_the_arithmetic_source_are_named(
    options: dict[str, str], sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SOURCES["arithmetic"](SourceRequest(options, Path(), 0, sizes))
