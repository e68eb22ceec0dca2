"""Every form of file, compressed or not, several files, folders, and saved datasets."""

import datetime
import decimal
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.sources.rows import FileOptions
from adapt_jax.utils.errors import UserError

ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS)
TASK = {"name": "t", "splits": {"test": 2}}


def compress(content: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return bytes(sink.getvalue())


def write_file(path: Path) -> Path:
    """The rows in the form that the name says."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(ROWS)
    form = path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    texts = {
        "jsonl": JSONL,
        "ndjson": JSONL,
        "json": json.dumps(ROWS),
        "csv": CSV,
        "tsv": CSV.replace(",", "\t"),
    }
    if form in texts:
        content = texts[form].encode()
        if path.suffix == ".gz":
            content = gzip.compress(content)
        elif path.suffix == ".zst":
            content = compress(content)
        path.write_bytes(content)
    elif form == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path)
    else:
        import pyarrow.feather
        import pyarrow.ipc

        if form == "feather":
            pyarrow.feather.write_feather(table, path)
        else:
            new = pyarrow.ipc.new_stream if "stream" in path.name else pyarrow.ipc.new_file
            with new(str(path), table.schema) as writer:
                writer.write_table(table)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl",
        "a.ndjson",
        "a.json",
        "a.csv",
        "a.tsv",
        "a.parquet",
        "a.arrow",
        "a_stream.arrow",
        "a.feather",
        "a.jsonl.gz",
        "a.json.gz",
        "a.csv.zst",
        "a.jsonl.zst",
    ],
)
def test_a_path_is_enough_for_every_form(name: str, tmp_path: Path) -> None:
    path = write_file(tmp_path / name)
    assert [dict(row.values) for row in read_rows(path)] == ROWS
    task = load_task({**TASK, "source": name}, tmp_path)
    assert (len(task.train), len(task.test)) == (4, 2)
    assert load_task({**TASK, "source": {"path": str(path)}}) == task


def test_the_name_of_a_compressed_file_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(JSONL.encode()))
    assert [dict(row.values) for row in read_rows(tmp_path / "a.jsonl")] == ROWS


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_truncated_or_damaged_compressed_file_is_named(ending: str, tmp_path: Path) -> None:
    text = "".join(json.dumps({"question": f"{n * 7919}?", "answer": n}) + "\n" for n in range(999))
    whole = gzip.compress(text.encode()) if ending == "gz" else compress(text.encode())
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"a\.jsonl\.{ending}: the \w+ file is truncated"):
        read_rows(path)
    middle = len(whole) // 2
    path.write_bytes(
        whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 9]) + whole[middle + 9 :]
    )
    with pytest.raises(UserError, match=rf"a\.jsonl\.{ending}"):
        read_rows(path)


def test_zstandard_without_its_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(compress(JSONL.encode()))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"reading Zstandard needs pyarrow: pip install 'adapt-j"):
        read_rows(tmp_path / "a.jsonl.zst")
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = {"name": "datasets", "dataset": "x", "test": "test"}
    with pytest.raises(UserError, match=r"needs the package datasets: pip install 'adapt-jax"):
        load_task({**TASK, "source": source})


def test_several_files_are_read_in_order_and_errors_name_theirs(tmp_path: Path) -> None:
    for n, name in enumerate(["b", "a", "c"]):
        rows = "".join(json.dumps(row) + "\n" for row in ROWS[2 * n : 2 * n + 2])
        (tmp_path / f"part-{name}.jsonl").write_text(rows)

    def read(path: Any) -> list[tuple[str, str]]:
        task = load_task({**TASK, "source": {"path": path}, "splits": {"test": 1.0}}, tmp_path)
        return [(example.id, example.answer) for example in task.test]

    in_order = sorted(read("part-*.jsonl"), key=lambda one: int(one[0].partition("-")[2]))
    assert [answer for _, answer in in_order] == ["3", "4", "1", "2", "5", "6"]
    assert len({id for id, _ in in_order}) == 6
    assert sorted(read(["part-a.jsonl", "part-[bc].jsonl"])) == sorted(in_order)
    (tmp_path / "part-b.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"part-b\.jsonl, line 1: no field 'question'"):
        read("part-*.jsonl")
    with pytest.raises(UserError, match=r"source: 'none-\*' matches no file"):
        read("none-*")


def test_a_folder_with_a_file_for_each_split_is_read_by_their_names(tmp_path: Path) -> None:
    for n, name in enumerate(["train.csv", "my_dev.csv", "test.csv.gz"]):
        text = f"question,answer\n{n} + 0?,{n}\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    task = load_task({"name": "t", "source": str(tmp_path)})
    assert [len(task.train), len(task.development), len(task.test)] == [1, 1, 1]
    assert (task.development[0].answer, task.test[0].answer) == ("1", "2")


def test_text_lines_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One?\n\n Two? \n")
    rows = read_rows(tmp_path / "a.txt")
    assert [(row.number, dict(row.values)) for row in rows] == [
        (1, {"text": "One?"}),
        (3, {"text": "Two?"}),
    ]


def test_records_within_records_have_what_is_around_them(tmp_path: Path) -> None:
    squad = {
        "version": "1.1",
        "data": [
            {"title": "T", "paragraphs": [
                {"context": "C1", "qas": [{"question": "a?", "answers": [{"text": "1"}]},
                                          {"question": "b?", "answers": [{"text": "2"}]}]},
                {"context": "C2", "qas": [{"question": "c?", "answers": [{"text": "3"}]}]},
            ]},
        ],
    }  # fmt: skip
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    source = {"path": "squad.json", "records": "data.paragraphs.qas"}
    fields = {"question": "{context} {question}", "answer": "answers.0.text"}
    config = {"name": "t", "source": source, "fields": fields, "splits": {"test": 1.0}}
    task = load_task(config, tmp_path)
    found = sorted((example.question, example.answer) for example in task.test)
    assert found == [("C1 a?", "1"), ("C1 b?", "2"), ("C2 c?", "3")]
    lines = [
        {"rule": "r", "instances": [{"x": 1}, {"x": 2}]},
        {"rule": "s", "instances": [{"x": 3}]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows(tmp_path / "a.jsonl", FileOptions(records="instances"))
    assert [dict(row.values) for row in rows] == [
        {"rule": "r", "x": 1}, {"rule": "r", "x": 2}, {"rule": "s", "x": 3},
    ]  # fmt: skip
    assert rows[2].where.endswith("a.jsonl, line 2, record 1") and rows[2].number == 3


def test_json_lines_in_a_json_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(JSONL)
    assert [dict(row.values) for row in read_rows(tmp_path / "a.json")] == ROWS


def test_a_saved_dataset_is_read_with_its_splits_and_label_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"question": datasets.Value("string"), "answer": label})

    def make(count: int, of: str) -> Any:
        rows = {
            "question": [f"{of} {n}?" for n in range(count)],
            "answer": [n % 2 for n in range(count)],
        }
        return datasets.Dataset.from_dict(rows, features=features)

    splits = datasets.DatasetDict(train=make(4, "a"), validation=make(2, "b"), test=make(3, "c"))
    splits.save_to_disk(str(tmp_path / "saved"))
    config = {"name": "t", "source": str(tmp_path / "saved"), "answer_parser": "yes_no"}
    task = load_task(config)
    assert [len(task.train), len(task.development), len(task.test)] == [4, 2, 3]
    assert [example.answer for example in task.test] == ["no", "yes", "no"]
    source = {
        "name": "datasets",
        "dataset": str(tmp_path / "saved"),
        "train": "train[:50%]",
        "test": "test[1:]",
    }
    task = load_task({**config, "source": source})
    assert [len(task.train), len(task.test)] == [2, 2]
    make(5, "d").save_to_disk(str(tmp_path / "one"))
    task = load_task({**config, "source": str(tmp_path / "one"), "splits": {"test": 2}})
    assert [len(task.train), len(task.test)] == [3, 2]
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'.*it has: train"):
        load_task({**config, "source": {**source, "test": "tset"}})


def test_a_dataset_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = {"name": "datasets", "dataset": "nobody/no_such_dataset_of_mine"}
    with pytest.raises(UserError, match="^dataset nobody/no_such.*: cannot be loaded") as caught:
        load_task({**TASK, "source": source})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a.xlsx", r"expected a file that ends with \.jsonl"),
        ("absent.csv", r"absent\.csv: no such file"),
        ({}, "source: expected a path, or a mapping with 'path'"),
        ([], "expected either .path. or some of"),
        ({"dataset": "x"}, "source.name: expected tfds or datasets"),
        ({"path": "a.jsonl", "delimiter": ";"}, "'delimiter' does not belong"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(source: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(JSONL)
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(UserError, match=message):
        load_task({**TASK, "source": source}, tmp_path)


def test_decimals_and_days_of_a_parquet_file_are_read_as_they_are(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    amounts = [decimal.Decimal("1.50"), decimal.Decimal("1000")]
    columns = {
        "amount": pyarrow.array(amounts, pyarrow.decimal128(8, 2)),
        "whole_day": pyarrow.array([datetime.datetime(2024, 3, 5)] * 2, "timestamp[us]"),
        "time": pyarrow.array([datetime.datetime(2024, 3, 5, 6, 7)] * 2, "timestamp[us]"),
        "date": pyarrow.array([datetime.date(2024, 3, 5)] * 2),
        "kind": pyarrow.array(["a", "b"]).dictionary_encode(),
    }
    table = pyarrow.table({"question": ["a?", "b?"], **columns})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = {}
    for name in columns:
        config = {"fields": {"question": "question", "answer": name}, "answer_parser": "text"}
        task = load_task({**TASK, "source": "t.parquet", **config}, tmp_path)
        found[name] = sorted(example.answer for example in task.test)
    assert found["amount"] == ["1.50", "1000.00"]
    assert found["whole_day"] == found["date"] == ["2024-03-05"] * 2
    assert found["time"] == ["2024-03-05 06:07:00"] * 2
    assert found["kind"] == ["a", "b"]


def test_a_json_file_of_splits_is_read_split_by_split(tmp_path: Path) -> None:
    splits = {"train": ROWS[:3], "dev": ROWS[3:4], "test": ROWS[4:], "extra": []}
    del splits["extra"]
    (tmp_path / "all.json").write_text(json.dumps(splits))
    task = load_task({"name": "t", "source": "all.json"}, tmp_path)
    sizes = [len(task.train), len(task.development), len(task.test)]
    assert sizes == [3, 1, 2]
    assert {example.answer for example in task.test} == {"5", "6"}
    one = load_task({**TASK, "source": {"path": "all.json", "records": "train"}}, tmp_path)
    assert len(one.train) + len(one.test) == 3


@pytest.mark.parametrize("skip", [False, True])
def test_a_field_that_no_row_has_is_refused_and_one_that_some_lack_may_be_skipped(
    skip: bool, tmp_path: Path
) -> None:
    some = [{"question": "a?"}, *ROWS, {"question": "b?"}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some[1:]))
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    wrong = {"fields": {"question": "question", "answer": "anser"}, "answer_parser": "text"}
    with pytest.raises(UserError, match="line 1: no field 'anser'; .*did you mean 'answer'.?$"):
        load_task({**TASK, "source": "some.jsonl", "skip_missing": skip, **wrong}, tmp_path)
    if skip:
        for name in ("some", "first"):
            task = load_task({**TASK, "source": f"{name}.jsonl", "skip_missing": True}, tmp_path)
            assert len(task.train) + len(task.test) == 6
    else:
        with pytest.raises(UserError, match="line 7: no field 'answer'; .* skip_missing: true"):
            load_task({**TASK, "source": "some.jsonl"}, tmp_path)


def test_a_repository_of_a_dataset_is_read_and_other_folders_are_named(tmp_path: Path) -> None:
    data = tmp_path / "clone" / "data"
    data.mkdir(parents=True)
    (tmp_path / "clone" / "README.md").write_text("# A data set")
    for name, rows in (("train", ROWS[:4]), ("test", ROWS[4:])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"{name}-00000-of-00001.jsonl").write_text(text)
    task = load_task({"name": "t", "source": "clone"}, tmp_path)
    assert (len(task.train), len(task.test)) == (4, 2)
    with pytest.raises(UserError, match="a folder without files .* of its folders: clone"):
        load_task({"name": "t", "source": str(tmp_path)})
    for name in ("features.json", "dataset_info.json"):
        (data / name).write_text("{}")
    with pytest.raises(UserError, match="was prepared by TensorFlow Datasets; expected"):
        load_task({"name": "t", "source": "clone/data"}, tmp_path)
