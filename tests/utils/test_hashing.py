"""Identities: of names and values, never of a class; anything that differs gives another one."""

import enum
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import numpy as np
import pydantic
import pytest

from adapt_jax.utils.hashing import get_version, hash_files, identity


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


def test_files_that_are_there_are_hashed_by_their_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"one")
    one = hash_files(tmp_path, ["a", "b"])
    (tmp_path / "a").write_bytes(b"two")
    assert one.keys() == {"a"} and hash_files(tmp_path, ["a"]) != one


def test_an_extension_has_version_1_until_it_says_otherwise():
    def parser(text):
        return text

    assert get_version(parser) == 1
    parser.version = 2
    assert get_version(parser) == 2
