"""Pretraining: every token of the documents is a target once; it goes on from a decoder, or not."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from adapt_jax.cli.main import main
from adapt_jax.pretrained.loading import get_parameters, load_pretrained
from adapt_jax.training.documents import cut_windows, read_documents
from adapt_jax.training.metrics_log import read_rows
from adapt_jax.training.pretraining import PretrainingConfig
from adapt_jax.utils.errors import UserError

TEXTS = ["Joe has 2 apples. " * 9, "Jane has 3 oranges.", "They met. " * 20]


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Two files of text."""
    lines = [json.dumps({"text": text, "source": "made"}) for text in TEXTS[:2]]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "story.txt").write_text(TEXTS[2])
    return ["lines.jsonl", "story.txt"]


def test_every_token_is_a_target_once_and_windows_overlap_by_one(corpus, tmp_path, tiny):
    texts = read_documents([tmp_path / name for name in corpus])
    assert list(texts.values()) == TEXTS
    cut = cut_windows(texts, tiny.encode, 1, 16)
    assert max(len(window.tokens) for window in cut) == 16
    joined: dict[str, list[int]] = {}
    for window in cut:
        whole = joined.setdefault(window.id.rpartition(", token ")[0], [])
        if whole:
            assert whole[-1] == window.tokens[0]
        whole += window.tokens[1:] if whole else window.tokens
        assert window.num_targets == len(window.tokens) - 1
    assert list(joined.values()) == [[*tiny.encode(text), 1] for text in TEXTS]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', "a.jsonl, line 2: no text in field 'text'"),
        ("a.jsonl", '{"text": ', "a.jsonl, line 1: not valid JSON"),
        ("a.txt", "  \n", "holds no text"),
        ("a.csv", "text", "expected a .txt or a .jsonl file"),
        ("b.txt", "text", "a.txt: no such file"),
    ],
)
def test_bad_files_are_one_line_and_nothing_is_written(
    tmp_path: Path, tiny_folder: Path, capsys, name: str, content: str, line: str
):
    (tmp_path / name).write_text(content)
    asked = "a.txt" if name == "b.txt" else name
    run = {"name": "x", "decoder": str(tiny_folder), "corpus": [asked], "training": {"steps": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    output = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "run.yaml"), "--output-dir", str(output)]) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1 and not output.exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"training": {"validate_every": 3}}, "validate_every measures the files of development"),
        ({"training": {}, "development": ["a.txt"]}, "is measured by training.validate_every"),
    ],
)
def test_validation_without_files_and_files_without_validation_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        PretrainingConfig(name="x", **options)


@pytest.mark.parametrize("going_on", [True, False])
def test_a_users_own_text_is_learnt_and_yields_a_hugging_face_folder(
    corpus, tmp_path: Path, tiny_folder: Path, capsys, going_on: bool
):
    shape = {"embed_dim": 32, "ffn_dim": 64, "num_layers": 1, "head_dim": 8, "context_length": 64}
    run = {
        "name": "mine",
        "decoder": str(tiny_folder) if going_on else shape,
        "vocab_size": 310,
        "corpus": corpus,
        "development": ["story.txt"],
        "training": {
            "steps": 6, "batch_size": 4, "row_length": 64, "learning_rate": 0.01,
            "warmup_steps": 0, "validate_every": 3,
        },
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    output = tmp_path / "out"
    command = ["pretrain", str(tmp_path / "run.yaml"), "--output-dir", str(output), "--quiet"]
    assert main(command) == 0
    model = load_pretrained(output)
    rows = read_rows(output / "training" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert [row["step"] for row in rows if "development_loss" in row] == [3, 6]
    if going_on:
        before = get_parameters(load_pretrained(tiny_folder).decoder)
        after = get_parameters(model.decoder)
        assert before.keys() == after.keys()
        assert all((np.asarray(after[path]) != before[path]).any() for path in before)
    weights = (output / "model.safetensors").read_bytes()
    assert main(command) == 0  # it has ended: the same comes out
    assert (output / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        ("some text".encode("utf-16"), "UTF-16 text"),
        (b"one line\nand \xff", "line 2: not UTF-8 text"),
        (b"a\0b", "line 1: a NUL character"),
    ],
)
def test_a_text_file_that_is_no_text_is_not_trained_on(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"a.txt.*{message}"):
        read_documents([tmp_path / "a.txt"])


def test_a_byte_order_mark_is_no_part_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOnce upon a time")
    assert list(read_documents([tmp_path / "a.txt"]).values()) == ["Once upon a time"]
