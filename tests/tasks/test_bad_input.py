"""Each kind of bad input is one line that names the file and the line, and exit code 2."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.cli.main import main
from adapt_jax.tasks.loading import load_task
from adapt_jax.utils.errors import UserError

GOOD = [{"id": f"q{n}", "question": f"{n} + 1?", "answer": n + 1} for n in range(6)]


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(*records: str) -> bytes:
    return "\r\n".join(["question,answer", *records, ""]).encode()


CASES: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "broken UTF-8": (
        "a.jsonl",
        lines(*GOOD[:3]) + b'{"question": "\xff?", "answer": 1}\n',
        {},
        r"a\.jsonl, line 4: not UTF-8 text \(byte 0xff\)",
    ),
    "broken UTF-8 in a CSV": (
        "a.csv",
        table("1?,1", "2?,2") + b"caf\xe9?,3\r\n",
        {},
        r"a\.csv, line 4: not UTF-8 text \(byte 0xe9\)",
    ),
    "UTF-16": ("a.csv", table("1?,1").decode().encode("utf-16"), {}, r"a\.csv: UTF-16 text"),
    "truncated gzip": (
        "a.jsonl.gz",
        gzip.compress(lines(*GOOD))[:-12],
        {},
        r"a\.jsonl\.gz: the gzip file is truncated",
    ),
    "an ordinary file that is called gzip": (
        "a.jsonl.gz",
        b'{"question": }\n',
        {},
        r"a\.jsonl\.gz, line 1: not valid JSON",
    ),
    "duplicate ids": (
        "a.jsonl",
        lines(*GOOD, {"id": "q2", "question": "again?", "answer": 1}),
        {"fields": {"id": "id"}},
        r"a\.jsonl, line [37]: fields\.id: the id 'q2' is that of .*a\.jsonl, line [37]",
    ),
    "duplicate ids in rows of which one is used": (
        "a.jsonl",
        lines({"id": 1, "question": "a?", "answer": 1}, {"id": "1", "question": "b?", "answer": 2}),
        {"fields": {"id": "id"}, "splits": {"test": 1, "train": 0}},
        r"a\.jsonl, line 2: fields\.id: the id '1' is that of .*a\.jsonl, line 1",
    ),
    "a number in a control sequence": (
        "a.jsonl",
        lines(*GOOD[:2], {"question": "c?", "answer": "no number\x1b[0m"}),
        {},
        r"a\.jsonl, line 3: the answer .* cannot be read as 'number'",
    ),
    "a line of 10 MB": (
        "a.jsonl",
        lines(*GOOD[:2], {"question": "x" * 10_000_000, "answer": 1}),
        {},
        r"a\.jsonl, line 3: a text of 10,000,000 characters; at most 2,000,000",
    ),
    "a number beside a text": (
        "a.jsonl",
        lines(*GOOD[:4], {"question": "five?", "answer": "five or so, who knows"}),
        {},
        r"a\.jsonl, line 5: the answer 'five or so, who knows' cannot be read as 'number'",
    ),
    "an object beside a text": (
        "a.jsonl",
        lines(*GOOD[:4], {"question": {"stem": "5?"}, "answer": 1}),
        {},
        r"a\.jsonl, line 5: field 'question' is an object; name a value in it: question\.stem",
    ),
    "a list beside an object": (
        "a.jsonl",
        lines(*GOOD[:4]) + b"[1, 2]\n",
        {},
        r"a\.jsonl, line 5: expected an object, found list",
    ),
    "a line break within a string of JSON": (
        "a.jsonl",
        lines(*GOOD[:2]) + b'{"question": "one\ntwo?", "answer": 1}\n',
        {},
        r"a\.jsonl, line 3: not valid JSON",
    ),
    "an empty file": ("a.jsonl", b"", {}, r"a\.jsonl: holds no row"),
    "a blank file": ("a.csv", b"\n\n", {}, r"a\.csv: holds no row"),
    "a header alone": ("a.csv", table(), {}, r"a\.csv: holds no row"),
    "an empty list": ("a.json", b"[]", {}, r"a\.json: holds no row"),
    "nothing, compressed": ("a.jsonl.gz", gzip.compress(b""), {}, r"a\.jsonl\.gz: holds no row"),
    "a label outside the choices": (
        "a.csv",
        table("a?,refund", "b?,billing", "c?,biling"),
        {"answer_parser": "label", "choices": ["refund", "billing"]},
        r"a\.csv, line 4: the answer 'biling' .*did you mean 'billing'",
    ),
    "a field that some rows lack": (
        "a.jsonl",
        lines(*GOOD[:3], {"question": "5?", "anwser": 1}),
        {},
        r"a\.jsonl, line 4: no field 'answer'; it has: question, anwser; did you mean 'anwser'",
    ),
    "an answer that is null": (
        "a.jsonl",
        lines(*GOOD[:3], {"question": "5?", "answer": None}),
        {},
        r"a\.jsonl, line 4: field 'answer' is empty; skip_missing: true leaves such rows out",
    ),
    "a record too long": ("a.csv", table("a?,1", "b?,2,3"), {}, r"a\.csv, line 3: 3 columns"),
}


@pytest.mark.parametrize("kind", CASES)
def test_bad_input_is_one_line_with_file_and_line(kind: str, tmp_path: Path) -> None:
    name, content, config, message = CASES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        load_task({"name": "t", "source": name, "splits": {"test": 2}, **config}, tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 450 + 2 * len(str(tmp_path))


def test_line_breaks_within_quoted_cells_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table('"one\r\ntwo?",1', '"three\nfour?",2'))
    task = load_task({"name": "t", "source": "a.csv", "splits": {"test": 2, "train": 0}}, tmp_path)
    assert {e.question for e in task.test} == {"one\r\ntwo?", "three\nfour?"}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes, dict], str]:
    """Runs compare on a file, and returns the line that it ends with."""

    def compare(content: bytes, task: dict[str, Any]) -> str:
        (tmp_path / "a.jsonl").write_bytes(content)
        task = {"name": "t", "source": str(tmp_path / "a.jsonl"), "splits": {"test": 2}, **task}
        config = {"decoder": "embedded", "task": task, "methods": {"zero_shot": {}}}
        (tmp_path / "c.yaml").write_text(json.dumps(config))
        assert main(["compare", str(tmp_path / "c.yaml"), "--output-dir", str(tmp_path / "o")]) == 2
        assert not (tmp_path / "o").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return compare


def test_the_command_exits_with_2_and_writes_nothing(run: Callable[[bytes, dict], str]) -> None:
    line = run(lines(*GOOD[:3]) + b'{"question": "\xff"}\n', {})
    assert line.startswith("error: ") and "a.jsonl, line 4: not UTF-8 text" in line


def test_a_test_split_that_equals_the_training_split_is_refused_by_the_command(
    run: Callable[[bytes, dict], str], tmp_path: Path
) -> None:
    (tmp_path / "b.jsonl").write_bytes(lines(*GOOD))
    source = {"train": str(tmp_path / "a.jsonl"), "test": str(tmp_path / "b.jsonl")}
    line = run(lines(*GOOD), {"source": source, "splits": {}})
    assert "a.jsonl, line 1: 6 train questions are in the test split, too: all of it" in line
    assert "b.jsonl, line 1" in line
