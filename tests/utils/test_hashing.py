"""Identities: of names and values, never of a class; anything that differs gives another one."""

import enum
import hashlib
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import pytest

from adapt_jax.utils.hashing import extension_version, hash_named_files, identity


@dataclass(frozen=True)
class Options:
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")


class Rule(enum.Enum):
    MAJORITY = "majority"


def test_an_identity_is_the_same_on_every_machine():
    assert identity(Options(), {"b": 1, "a": None}, b"raw") == "57d6128ed4ca5f34"


def test_renaming_a_class_or_its_module_changes_no_identity():
    renamed = make_dataclass("Settings", ["rate", "names"])
    model = pydantic.create_model("Config", rate=(float, 0.5), names=(tuple[str, ...], ("a", "b")))
    expected = identity(Options())
    assert identity(renamed(0.5, ("a", "b"))) == identity(model()) == expected
    assert identity(Rule.MAJORITY) == identity("majority")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Options(), Options(rate=0.25)),
        (Options(), Options(names=("a",))),
        (make_dataclass("A", ["x"])(1), make_dataclass("A", ["y"])(1)),
        (1, True),
        (1, 1.0),
        (1, "1"),
        (None, "None"),
        (0.0, -0.0),
        (float("nan"), float("inf")),
        (["a", "b"], ["ab"]),
        (["a", ["b"]], ["a", "b"]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {1: "a"}),
        (b"a", "a"),
        ("\ud800", "\ud801"),
        (np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.arange(4), np.arange(4)[::-1]),
    ],
)
def test_what_differs_has_another_identity(one, other):
    assert identity(one) != identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y"}, frozenset({"y", "x"})),
        (np.float32(0.5), 0.5),
        (np.arange(6).reshape(2, 3).T.copy(), np.arange(6).reshape(2, 3).T),
        (Path("a"), "a"),
    ],
)
def test_what_is_equal_has_the_same_identity(one, other):
    assert identity(one) == identity(other)


@pytest.mark.parametrize("value", [object(), Options, np.array([object()]), lambda: None])
def test_what_has_no_values_has_no_identity(value):
    with pytest.raises(TypeError, match="no identity of a"):
        identity(value)


class Inner(pydantic.BaseModel):
    names: dict[int | str, str] = {}


class Settings(pydantic.BaseModel):
    path: str
    inner: Inner = Inner()
    kind: Literal["file", "folder"] = "file"


def test_a_named_file_or_folder_counts_by_its_content_at_any_depth(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "a.txt").write_text("same")
        (tmp_path / folder / ".hidden").write_text(folder)

    def hashed(path: str, inner: str = "") -> str:
        settings = Settings(path=path, inner=Inner(names={1: inner, "a": inner}))
        return identity(hash_named_files(settings))

    assert hashed("one") == hashed("two")
    assert hashed("one/deep/a.txt") == hashed("two/deep/a.txt") != hashed("one")
    assert hashed("x", "one") == hashed("x", "two") != hashed("x", "three")
    before = hashed("one"), hashed("x", "one")
    (tmp_path / "one" / "deep" / "a.txt").write_text("edited")
    assert hashed("one") != before[0] and hashed("x", "one") != before[1]


def test_a_text_that_is_no_path_and_a_fixed_word_count_as_they_are(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("the name of a kind")
    for text in ("", "~5 tokens", "a\0b", "x" * 5000, "/dev/zero"):
        assert hash_named_files(Settings(path=text)) == {
            "path": text,
            "inner": {"names": {}},
            "kind": "file",
        }


def test_an_extension_has_version_1_until_it_says_otherwise_and_a_hash_of_its_file():
    def parser(text):
        return text

    version, content = extension_version(parser)
    assert version == 1 and content == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    parser.version = 2
    assert extension_version(parser) == [2, content]
    parser.__module__ = "adapt_jax.tasks.answers"  # the version of the package's own is enough
    assert extension_version(parser) == [2]
