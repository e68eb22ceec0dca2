"""The journal: what came before a crash is kept, whatever the disk does."""

import json
import math
import random
import zlib
from pathlib import Path

import pytest
from made_results import candidate, prediction

from adapt_jax.evaluation.journal import Journal
from adapt_jax.tasks.example import Example
from adapt_jax.utils import files
from adapt_jax.utils.errors import UserError

EXAMPLES = [Example(f"q{n}", "?") for n in range(4)]
SAID = {
    0: prediction("q0", candidate("5", text="line\u2028separator \x85 \ud83d half"), seconds=0.25),
    2: prediction("q2", candidate(None, "length"), candidate("7"), candidates_saved=3),
    3: prediction("q3", candidate("1/2"), too_long=True),
}


def checked(text: str) -> str:
    """A line of a journal whose checksum is right."""
    return json.dumps({"crc32": zlib.crc32(text.encode()), "prediction": text})


def write(path: Path, identity: str = "one") -> None:
    with Journal(path, identity).open({}) as journal:
        for said in SAID.values():
            journal.add(said)


def test_predictions_come_back_as_they_were(tmp_path: Path):
    write(tmp_path / "journal.jsonl")
    known = Journal(tmp_path / "journal.jsonl", "one").read(EXAMPLES)
    assert known.keys() == SAID.keys()
    assert known[2] == SAID[2] and known[3] == SAID[3]
    assert known[0].candidates[0].text == "line\u2028separator \x85 \ufffd half"


def test_numbers_that_json_does_not_know_come_back(tmp_path: Path):
    odd = [type(SAID[0].candidates[0])("", (), x, "eos") for x in (-math.inf, math.nan)]
    with Journal(tmp_path / "j", "one").open({}) as journal:
        journal.add(prediction("q1", *odd))
    first, second = Journal(tmp_path / "j", "one").read(EXAMPLES)[1].candidates
    assert first.log_probability == -math.inf and math.isnan(second.log_probability)


@pytest.mark.parametrize(
    "line",
    [
        '{"crc32": 5, "predic',
        "[" * 100_000,
        "null",
        "[]",
        '"prediction"',
        '{"crc32": 0, "prediction": ""}',
        '{"crc32": null, "prediction": null}',
        '{"crc32": 0, "prediction": "\\ud800 \u00e9"}',
        checked(json.dumps({"example_id": "q9"})),
        checked(json.dumps({"example_id": "q3", "answer": 5})),
        checked("[" * 100_000),
        "1" * 6000,
    ],
)
def test_what_stands_before_a_damaged_line_is_kept(tmp_path: Path, line: str):
    path = tmp_path / "journal.jsonl"
    write(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    assert Journal(path, "one").read(EXAMPLES).keys() == {0, 2}


def test_no_changed_byte_becomes_another_prediction(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    write(path)
    whole, good = path.read_bytes(), Journal(path, "one").read(EXAMPLES)
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        for index, found in Journal(path, "one").read(EXAMPLES).items():
            assert found == good[index]


def test_other_work_and_other_files_are_not_read(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    write(path)
    assert Journal(path, "other").read(EXAMPLES) == {}
    path.write_bytes(b"\xff\x00")
    assert Journal(path, "one").read(EXAMPLES) == {}
    assert Journal(tmp_path / "none", "one").read(EXAMPLES) == {}


def test_a_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    write(path)
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    with Journal(path, "one").open(dict(SAID)) as journal, monkeypatch.context() as patch:
        patch.setattr(files.os, "pwrite", full)
        with pytest.raises(UserError, match="journal.jsonl: cannot be written .No space left"):
            journal.add(prediction("q1", candidate("3")))
    assert path.read_text() == before


def test_two_processes_do_not_write_one_journal(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, "one").open({}):
        with pytest.raises(UserError, match="another process is writing there"):
            with Journal(path, "one").open({}):
                pass
    assert [file.name for file in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_mistake_before_the_first_prediction_leaves_no_file(tmp_path: Path):
    with pytest.raises(UserError, match="mistake"), Journal(tmp_path / "j", "one").open({}):
        raise UserError("mistake")
    assert not list(tmp_path.iterdir())
