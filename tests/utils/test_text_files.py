"""The readers of JSON and YAML: strict, bounded, and every refusal one line with file and line."""

import copy
import json
import math
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_jax.utils import text_files
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import (
    parse_json,
    parse_yaml,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"\\\u00e9{}[]:,'), inner),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_json_reads_back_what_python_writes(value: Any) -> None:
    for indent in (None, 2):
        assert parse_json(json.dumps(value, indent=indent), "x") == value


@settings(max_examples=50)
@given(JSON_VALUES)
def test_json_is_yaml(value: Any) -> None:
    """Apart from DEL and C1 controls, which YAML refuses unescaped; ASCII escapes them."""
    text = json.dumps(value)
    if "\\ud" not in text and "\x7f" not in text:  # YAML has no surrogate pairs
        assert parse_yaml(text, "x") == value


@pytest.mark.parametrize("text", ["1.50", "1e5", "-0", "0.66666666666666666666", "2.5", "3"])
def test_numbers_keep_the_text_that_they_are_written_as(text: str) -> None:
    assert type(parse_json(text, "x")) in (int, float)
    for value in (parse_json(text, "x", keep_number_text=True), parse_yaml(text, "x")):
        for one in (value, copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert str(one) == text and one == float(text)
            assert json.loads(json.dumps(one)) == float(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"a": 1,\n "a": 2}', 2, "the key 'a' occurs twice"),
        ('{"b": [{"a": "a"}],\n "c": {"a": 1,\n\n "\\u0061": 2}}', 4, "the key 'a' occurs twice"),
        ("[1,\nNaN]", 2, "not valid JSON (NaN is no JSON number)"),
        ('["NaN",\n-Infinity]', 2, "not valid JSON (-Infinity is no JSON number)"),
        ("[\n1e999]", 2, "the number '1e999' is out of range"),
        ("[\n" + "9" * 5000 + "]", 2, "a number of 5,000 characters; at most 1,000"),
        ("[" * 200_000, 1, "more than 100 levels of lists and objects"),
        ("[" * 100 + "[]" + "]" * 100, 1, "more than 100 levels of lists and objects"),
        ('{"a":\n' * 101 + "1" + "}" * 101, 101, "more than 100 levels of lists and objects"),
        ('{"a": 1,\n}', 2, "not valid JSON"),
        ("", 1, "not valid JSON (Expecting value)"),
        ('"\x01"', 1, "not valid JSON (Invalid control character at)"),
    ],
)
def test_json_that_is_refused_is_named_by_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_json(text, "a.json")
    assert str(caught.value).startswith(f"a.json, line {line}: {message}")
    assert len(str(caught.value)) < 200
    with pytest.raises(UserError, match=f"line {line + 6}: "):
        parse_json(text, "a.json", line=7)


def test_constants_are_read_where_the_caller_says_as_what() -> None:
    assert parse_json('["NaN", NaN]', "x", constants={"NaN": None}) == ["NaN", None]
    assert parse_json("[Infinity]", "x", constants={"Infinity": math.inf}) == [math.inf]


def test_a_hundred_levels_are_read() -> None:
    text = "[" * 100 + "]" * 100
    assert parse_json(text, "x") == parse_yaml(text, "x") == json.loads(text)


def test_brackets_in_strings_are_no_levels() -> None:
    text = json.dumps({"a": ["[{" * 200, "\\" * 9, '"' * 9]})
    assert parse_json(text, "x")["a"][0] == "[{" * 200


def test_keys_that_become_one_when_surrogates_are_replaced_are_refused() -> None:
    with pytest.raises(UserError, match="^x, line 2: the key '\ufffd' occurs twice"):
        parse_json('{"\\ud800": 1,\n "\\ud801": 2}', "x")


def test_the_mark_at_the_beginning_moves_no_line() -> None:
    with pytest.raises(UserError, match="^x, line 3: not valid JSON"):
        parse_json('\ufeff{"a": 1,\n\n?}', "x")


def test_half_of_a_surrogate_pair_becomes_the_replacement_character() -> None:
    assert parse_json(r'{"a\ud83d": ["\ud83d", "\ud83d\ude00"]}', "x") == {
        "a\ufffd": ["\ufffd", "\U0001f600"]
    }
    assert parse_yaml("a: b\ud83d", "x") == {"a": "b\ufffd"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("3:30", "3:30"),
        ("12:30:45", "12:30:45"),
        ("2024-02-30", "2024-02-30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("<<", "<<"),
        ("=", "="),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("0010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+5", 5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("5.", 5.0),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("!!float 5", 5.0),
        ("!!map {a: 1}", {"a": 1}),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("a: |\n  1\n  2\n", {"a": "1\n2\n"}),
        ("{1: a, yes: b}", {1: "a", "yes": "b"}),
    ],
)
def test_yaml_follows_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text, "x")
    assert found == value and isinstance(found, type(value))
    if isinstance(found, int | float) and not isinstance(found, bool):
        assert str(found) == text.removeprefix("!!float ")


BILLION = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' occurs twice"),
        ("{a: {b: 1, b: 2}}", 1, "the key 'b' occurs twice"),
        ("{1: a, 0x1: b}", 1, "the key '0x1' occurs twice"),
        ("[" * 3000, 1, ""),
        ("[" * 101 + "]" * 101, 1, "more than 100 levels of lists and mappings"),
        ("a:\n- " + "- " * 3000, 2, "more than 100 levels of lists and mappings"),
        ("{a: " * 3000, 1, ""),
        (BILLION, 6, "more than 200,000 values, aliases followed"),
        ("&a [*a]", 1, "the alias *a has no anchor before it"),
        ("a: *b", 1, ""),
        ("a: 1\nb: \0", 2, "not valid YAML"),
        ("a: 1\nb: \x07", 2, "not valid YAML"),
        ("a: [1\nb: 2", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "a second document (---); expected one"),
        ("? [a]\n: 1", 1, "a key that is a list or a mapping"),
        ("a: !!python/object:os.system x", 1, ""),
        ("a: !!binary aGk=", 1, ""),
        ("a: !!int x", 1, ""),
        ("a: 1\nb: !!float 0x1", 2, "'0x1' with the tag"),
        ("a: !!float 0o17", 1, "'0o17' with the tag"),
        ("a: !!float x", 1, "'x' with the tag"),
        ("a: !!timestamp 2024-02-30", 1, ""),
        ("a: !!set {b}", 1, ""),
        ("a: .nan", 1, ".nan is no finite number; quote it where it is text"),
        ("a: -.INF", 1, "-.INF is no finite number"),
        ("a: 1e999", 1, "the number '1e999' is out of range"),
        ("a: " + "9" * 5000, 1, "a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, 1, "a number of 5,002 characters"),
        ("a: 'open", 1, "not valid YAML"),
        ("\tb: 1", 1, "not valid YAML"),
    ],
)
def test_yaml_that_is_refused_is_named_by_its_line(
    text: str, line: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        monkeypatch.setattr(yaml, "CSafeLoader", loader)
        with pytest.raises(UserError) as caught:
            parse_yaml(text, "a.yaml")
        said = str(caught.value)
        assert said.startswith(f"a.yaml, line {line}: {message}"), said
        assert len(said) < 300 and "\n" not in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"q": "\xe9"}', r"a\.txt, line 2: not UTF-8 text \(byte 0xe9\)"),
        (b"\xef\xbb\xbfa\n\xe9", r"a\.txt, line 2: not UTF-8 text \(byte 0xe9\)"),
        ("a".encode("utf-16"), r"a\.txt: UTF-16 text; save it as UTF-8"),
        (b"\xed\xa0\xbd", r"line 1: not UTF-8 text"),
        (b"a\nb\0", r"a\.txt, line 2: a NUL character"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"Git LFS.*git lfs pull"),
    ],
)
def test_a_file_that_is_no_text_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text(tmp_path / "a.txt")


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("1")
    for path, message in [
        (tmp_path / "b.json", r"b\.json: no such file; did you mean 'a\.json'"),
        (tmp_path, "is a folder; expected a file"),
        (Path("/dev/zero"), "/dev/zero: is no regular file"),
        (tmp_path / "none" / "a.json", "no such file"),
        (tmp_path / ("x" * 5000), "File name too long"),
        (tmp_path / "a\0b", "no such file|cannot be read"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read_json(path)
        assert len(str(caught.value)) < 400
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 0)
    with pytest.raises(UserError, match="1 bytes; at most 0 can be read"):
        read_json(tmp_path / "a.json")


def test_files_are_read_without_their_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_text("\ufeffa: 1")
    assert read_yaml(path) == {"a": 1}
    path.write_text("")
    assert read_yaml(path) is None


@settings(max_examples=300, deadline=None)
@given(
    st.text('{}[]":,\\ \n-0123456789.eEtruefalsn&*!|>#%@`\t?~u\ufeff', max_size=60)
    | st.binary(max_size=40).map(lambda b: b.decode("utf-8", "surrogateescape"))
)
def test_damaged_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(text, "x")
        except UserError as problem:
            assert "\n" not in str(problem) and len(str(problem)) < 400


@pytest.mark.parametrize(
    "text",
    [
        '"' + '\\"' * 500_000,
        '["' * 300_000,
        "[{" * 300_000,
        '"a' * 300_000,
        "- " * 300_000,
        "a: " * 300_000,
        "{a" * 300_000,
        "&a " * 300_000,
        "? " * 300_000,
        "*a," * 300_000,
    ],
)
def test_hostile_text_is_refused_in_linear_time(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        start = time.process_time()
        with pytest.raises(UserError):
            parse(text, "x")
        assert time.process_time() - start < 3
