"""Answers that are JSON by a schema: found in texts, validated, and compared as values."""

import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import fails

from adapt_jax.tasks.answers import PARSERS, answers_match, read_answer, read_gold
from adapt_jax.tasks.answers.cut_answers import read_cut_answer
from adapt_jax.tasks.answers.json_answers import name_schema_parser
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1},
        "people": {"type": "number", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["city"],
    "additionalProperties": False,
}
PLAIN = Template(answer=" {answer}", answer_with_reasoning=" {reasoning} {answer}")


def name(schema=SCHEMA, field=None) -> str:
    return name_schema_parser(schema, field, "task.yaml")


def read(text: str, schema=SCHEMA, field=None) -> str | None:
    return read_answer(name(schema, field), text, Template())


def cut(text: str, schema=SCHEMA, template=PLAIN) -> str | None:
    return read_cut_answer(name(schema), text, template)


BONN = '{"city":"Bonn","people":330000}'


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Bonn", "people": 330000}',
        '{"people": 3.3e5, "city": "Bonn"}',
        ' The answer is {"people": 330000.0, "city": "B\\u006fnn"}.',
        'Sure!\n```json\n{\n  "city": "Bonn",\n  "people": 330000\n}\n```\nAnything else?',
        '```\n{"city": "Bonn", "people": 330000}\n```',
        'I think {of a city} [as asked]: {"city": "Bonn", "people": 330000} {"note": 1}',
        'Twice the same: {"city":"Bonn","people":330000} or {"people":330000,"city":"Bonn"}',
    ],
)
def test_one_valid_value_is_the_answer_in_one_form(text: str):
    assert read(text) == BONN
    assert answers_match(name(), BONN, [text]) == (text.startswith("{"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bonn",
        '{"town": "Bonn"}',
        '{"city": "Bonn", "mayor": "x"}',
        '{"city": ""}',
        '{"city": "Bonn", "people": -1}',
        '{"city": "Bonn", "people": "330000"}',
        '{"city": "Bonn", "people": NaN}',
        '{"city": "Bonn", "people": 1e999}',
        '{"city": "Bonn", "city": "Rome"}',
        "{'city': 'Bonn'}",
        '{"city": "Bonn"} or {"city": "Rome"}',
        # cut off: what is whole within it is no answer
        '{"city": "Bonn", "peop',
        '{"city": "Bonn"',
        '[{"city": "Bonn"}, {"ci',
        '{"cities": [{"city": "Bonn"}], "more": tru',
        '{"city": "Bonn"} no, {"city": "Ro',
        '{"outer": {"city": "Bonn"}, oops}',
        '[{"city": "Bonn"}]',
    ],
)
def test_what_is_invalid_ambiguous_or_cut_off_abstains(text: str):
    assert read(text) is None


def test_equal_numbers_are_equal_and_other_types_are_not():
    anything = {"type": ["number", "string", "boolean", "null", "array"]}
    forms = {text: read(text, anything) for text in ("1", "1.0", "1e0", "10e-1")}
    assert set(forms.values()) == {"1"}
    assert read("-0.0", anything) == "0"
    assert read("0.1", anything) == read("0.10", anything) == "0.1"
    # a text that looks like another value keeps its quotes
    assert read('"1"', anything) == '"1"' and read('"true"', anything) == '"true"'
    assert read("true", anything) == "true" and read("null", anything) == "null"
    assert read('"Bonn"', anything) == "Bonn" and read('""', anything) == '""'
    assert read("[1, 2]", anything) != read("[2, 1]", anything)
    assert read("[2.0, 1]", anything) == "[2,1]"
    assert read("1.0", {"type": "integer"}) == "1" and read("1.5", {"type": "integer"}) is None


def test_a_field_of_a_valid_object_is_the_answer():
    text = 'So: {"city": "Bonn", "tags": ["b", "a"], "people": 5.0}'
    assert read(text, field="city") == "Bonn"
    assert read(text, field="people") == "5" and read(text, field="tags.0") == "b"
    assert read('{"city": "Bonn"}', field="people") is None
    assert read('{"city": "Bonn", "x": 1}', field="city") is None  # the whole has to be valid
    city, people = name(field="city"), name(field="people")
    assert read_gold(city, '{"city": "Bonn"}') == "Bonn" == read_gold(city, "Bonn")
    assert read_gold(people, "5") == "5" == read_gold(people, "5.00")
    assert read_gold(people, '{"city": "Bonn"}') is None
    # the schema says that it is a text
    assert read_gold(city, "18") == read('{"city": "18"}', field="city") == '"18"'


def test_gold_answers_are_valid_as_a_whole():
    assert read_gold(name(), ' {"people": 330000.0, "city": "Bonn"} ') == BONN
    for text in ("Bonn", 'So {"city": "Bonn"}', '{"town": "Bonn"}', '{"city": "Bonn"', "[]", ""):
        assert read_gold(name(), text) is None, text


def test_a_text_that_was_cut_off_has_an_answer_where_its_json_ends():
    assert cut('{"city": "Bonn"}') == '{"city":"Bonn"}'
    assert cut('Well: {"city": "Bonn"}\n\nQ: Whe') == '{"city":"Bonn"}'
    for text in ('{"city": "Bonn"', '{"city": "Bonn"} {"ci', '{"city": "Bon', "Well: {"):
        assert cut(text) is None, text
    assert cut("12", {"type": "integer"}) is None  # may become 123
    assert cut(" The answer is", template=Template()) is None


def test_a_task_names_the_schema_or_its_file(tmp_path: Path):
    rows = [
        {"q": "Where?", "a": {"people": 330000.0, "city": "Bonn"}},
        {"q": "And?", "a": '{"city": "Rome"}'},
        {"q": "Or?", "a": ['{"city": "Rome"}', '{"city": "Roma"}']},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "city.json").write_text(json.dumps(SCHEMA))
    task = {
        "name": "cities",
        "source": {"test": "rows.jsonl"},
        "fields": {"question": "q", "answer": "a"},
        "answer_parser": {"name": "json_schema", "schema": "city.json"},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    loaded = load_task(tmp_path / "task.yaml")
    assert loaded.parser == name()
    first, second, third = loaded.test
    assert loaded.grade(read(BONN), first) and not loaded.grade(read(BONN), second)
    assert loaded.grade(read('{"city": "Roma"}'), third)
    task["answer_parser"] |= {"schema": SCHEMA, "field": "city"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    loaded = load_task(tmp_path / "task.yaml")
    assert loaded.parser == name(field="city") and loaded.grade("Bonn", loaded.test[0])


@pytest.mark.parametrize(
    ("parser", "message"),
    [
        ({"name": "json_schema"}, "answer_parser: the key 'schema' is missing"),
        ({"name": "json_schema", "schema": {"type": "objekt"}}, "no JSON Schema: type: 'objekt'"),
        ({"name": "json_schema", "schema": "none.json"}, "none.json: no such file"),
        ({"name": "json_schema", "schema": "list.json"}, "expected an object or the path"),
        ({"name": "json_schema", "schema": {}, "field": "a..b"}, "expected the name of a field"),
        ({"name": "json_schema", "schema": {}, "fields": "a"}, "field"),
        ({"name": "json_scheme", "schema": {}}, "json_schema"),
        ({"name": "json_schema", "schema": {"pattern": "("}}, "pattern: '(' is not a 'regex'"),
        (
            {"name": "json_schema", "schema": {"$ref": "https://example.org/x.json"}},
            "references lead within the schema",
        ),
        ({"name": "json_schema", "schema": {"$ref": "#/$defs/x"}}, "no definition '#/$defs/x'"),
        ({"name": "json_schema", "schema": {"$dynamicRef": "#x"}}, "$dynamicRef is not supported"),
        ({"name": "json_schema", "schema": {"$recursiveRef": "#"}}, "$recursiveRef is not"),
        ({"name": "json_schema", "schema": {"$schema": ["x"]}}, "$schema ['x']; expected"),
        ({"name": "json_schema", "schema": {"const": float("nan")}}, "nan is no finite number"),
        ({"name": "json_schema", "schema": {"properties": {1: {}, "a": {}}}}, "schema: no JSON"),
        ("json_schema", "json_schema"),
        ("json_schema:x", "expected answer_parser: {name: json_schema, schema: ...}"),
    ],
)
def test_a_mistake_is_one_line(parser, message: str, tmp_path: Path, capsys):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    task = {"name": "t", "source": {"test": "rows.jsonl"}, "answer_parser": parser}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    config = {"task": "task.yaml", "methods": {"zero_shot": {}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    line = fails(capsys, "compare", tmp_path / "run.yaml", "--output-dir", tmp_path / "out")
    assert message in line and any(file in line for file in ("task.yaml", ".json"))


@pytest.mark.parametrize("constant", [date(2024, 3, 5), float("nan"), {1: "a", "b": 2}])
def test_a_schema_from_python_that_is_no_json_is_one_line(constant: Any):
    with pytest.raises(UserError, match="here: schema: no JSON"):
        name_schema_parser({"const": constant}, None, "here")


def test_a_gold_answer_that_is_not_valid_names_its_line(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": {"town": "b"}}\n')
    task = {
        "name": "t",
        "source": {"test": str(tmp_path / "rows.jsonl")},
        "answer_parser": {"name": "json_schema", "schema": SCHEMA},
    }
    with pytest.raises(UserError, match="rows.jsonl, line 1: .*cannot be read as 'json_schema'"):
        load_task(task)


def test_schemas_that_would_not_end_do():
    started = time.perf_counter()
    slow = {"type": "string", "pattern": "^(?:a|a)+$"}
    assert read(json.dumps("a" * 60 + "b"), slow) is None
    assert read("[]", {"$ref": "#"}) is None
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    assert read("[]", {"$defs": doubling | {"d40": {}}, "$ref": "#/$defs/d0"}) is None
    assert read("[" * 100_000, {}) is None
    assert read("```" + "\n" * 100_000, {}) is None
    assert read("```" + "a" * 100_000, {}) is None
    assert time.perf_counter() - started < 10
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert read("[[], [[]]]", tree) == "[[],[[]]]" and read("[1]", tree) is None


@pytest.mark.parametrize(
    "repeated",
    [
        "[1, 1.0]",
        "[[1], [true], [1]]",
        '[{"a": 1, "b": [2]}, {}, {"b": [2.0], "a": 1}]',
        "[[], []]",
    ],
)
def test_repeated_items_are_found(repeated: str):
    assert read(repeated, {"type": "array", "uniqueItems": True}) is None
    assert read(repeated, {"type": "array", "uniqueItems": False}) is not None


def test_items_that_differ_are_told_apart_in_linear_time():
    schema = {"type": "array", "uniqueItems": True}
    different = '[1, true, "1", 0, false, null, [1], [true], {"a": 1}, {"a": true}, {}, []]'
    assert read(different, schema) is not None
    many = json.dumps([{"number": number} for number in range(20_000)])
    started = time.perf_counter()
    assert read(many, schema) is not None
    assert time.perf_counter() - started < 5  # comparing all pairs takes minutes


def test_a_reference_within_a_part_with_an_id_of_its_own_is_one_line():
    part = {"$id": "https://example.org/part", "$ref": "#/$defs/x"}
    with pytest.raises(UserError, match="json_schema: schema: PointerToNowhere"):
        read("[1]", {"$defs": {"x": {}}, "items": part})


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(UserError, match=r"pip install 'adapt-jax\[json\]'"):
        name({"type": "object", "title": "not read before"})


def test_the_form_of_the_parser_holds_all_that_it_depends_on():
    parser = name(field="city")
    assert json.loads(parser.partition(":")[2]) == {"schema": SCHEMA, "field": "city"}
    assert PARSERS.find(parser) is PARSERS.find(name(dict(reversed(SCHEMA.items())), "city"))
