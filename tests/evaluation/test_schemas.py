"""The published schemas are those of the models, and real results agree with them."""

import json
from pathlib import Path

import jsonschema
import pytest
from made_results import Scripted, done_rung, make_task

from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.report.files import (
    read_comparison,
    read_whole_rungs,
    write_comparison,
    write_evaluation,
)
from adapt_jax.evaluation.results import ComparisonResult, SkippedRung
from adapt_jax.evaluation.schemas import SCHEMAS, write_schemas
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import write_json

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "schemas"


def test_the_published_schemas_are_up_to_date(tmp_path: Path):
    write_schemas(tmp_path)
    for name in SCHEMAS:
        assert (PUBLISHED / name).read_text() == (tmp_path / name).read_text(), (
            "run: python -m adapt_jax.evaluation.schemas docs/schemas"
        )


def some_result() -> ComparisonResult:
    rungs = [done_rung("zero_shot", [True, False]), SkippedRung(method="few_shot", reason="none")]
    return ComparisonResult(task="t", decoder="d", seed=0, best="zero_shot", rungs=rungs)


def test_a_comparison_comes_back_as_it_was(tmp_path: Path):
    path = tmp_path / "comparison.json"
    write_comparison(path, some_result())
    assert read_comparison(path) == some_result()
    skipped = json.loads(path.read_text())["rungs"][1]
    assert skipped["accuracy"] is skipped["p_value_vs_previous"] is skipped["train_seconds"] is None


def test_real_results_agree_with_the_schemas(tmp_path: Path):
    schemas = {name: json.loads((PUBLISHED / name).read_text()) for name in SCHEMAS}
    content = some_result().model_dump(mode="json")
    jsonschema.validate(content, schemas["comparison.schema.json"])
    del content["rungs"][0]["accuracy"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schemas["comparison.schema.json"])
    task = make_task("red", "blue")
    evaluation = evaluate(Scripted(lambda example: "red"), task)
    write_evaluation(tmp_path, evaluation, task, method="zero_shot", seed=0)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    jsonschema.validate(written, schemas["evaluation.schema.json"])
    assert (written["accuracy"], written["task"], written["method"]) == (0.5, "t", "zero_shot")
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in rows] == [True, False]


def set_value(content: dict, value, *path) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (2, ("format",)),
        ("lora", ("best",)),  # no rung of this name
        ("../../elsewhere", ("rungs", 0, "method")),
        (None, ("rungs",)),
        ({}, ("rungs", 0)),
        (1.5, ("rungs", 0, "accuracy")),
        (None, ("rungs", 0, "accuracy")),
        ("0.5", ("rungs", 0, "ci95")),
        ([0.1, 0.2, 0.3], ("rungs", 0, "ci95")),
        (-1, ("rungs", 0, "n")),
        ("gone", ("rungs", 0, "status")),
        (0.5, ("rungs", 1, "accuracy")),
        (1, ("rungs", 0, "unknown")),
        ("x" * 10**6, ("rungs", 0, "seconds")),
        (1e308, ("rungs", 0, "prompt_tokens")),  # finite, but no sum of two
        (10**400, ("rungs", 0, "trainable_parameters")),
        ([0.9, 0.1], ("rungs", 0, "ci95")),
        ([0.9, 1.0], ("rungs", 0, "ci95")),  # does not hold the accuracy of 0.5
    ],
)
def test_a_damaged_comparison_is_one_line(tmp_path: Path, value, path: tuple):
    content = some_result().model_dump(mode="json")
    set_value(content, value, *path)
    write_json(tmp_path / "comparison.json", content)
    with pytest.raises(UserError, match="comparison.json") as told:
        read_comparison(tmp_path / "comparison.json")
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


def list_numbers(content: object, *path: object) -> list[tuple]:
    """The places of all numbers in a JSON value."""
    if isinstance(content, dict):
        return [place for key in content for place in list_numbers(content[key], *path, key)]
    if isinstance(content, list):
        return [place for n, one in enumerate(content) for place in list_numbers(one, *path, n)]
    return [path] if isinstance(content, int | float) and not isinstance(content, bool) else []


def test_no_plausible_number_is_trusted_that_was_not_written(tmp_path: Path):
    path = tmp_path / "comparison.json"
    write_comparison(path, some_result())
    written = path.read_text()
    places = list_numbers(json.loads(written))
    assert len(places) > 10
    for place in places:
        content = value = json.loads(written)
        for key in place:
            value = value[key]
        changed = value + 1 if isinstance(value, int) else value * 0.999 + 0.0001
        set_value(content, changed, *place)
        write_json(path, content)
        with pytest.raises(UserError, match="comparison.json"):
            read_comparison(path)
        if place[:2] == ("rungs", 0):
            assert read_whole_rungs(path) == ([], ["zero_shot"]), place
    # a checksum that is gone is no proof
    for gone in (("crc32",), ("rungs", 0, "crc32")):
        content = json.loads(written)
        set_value(content, None, *gone)
        write_json(path, content)
        with pytest.raises(UserError, match="has changed since it was written"):
            read_comparison(path)


def test_a_damaged_rung_leaves_the_others(tmp_path: Path):
    path = tmp_path / "comparison.json"
    rungs = [done_rung(name, [True, False]) for name in ("zero_shot", "few_shot", "lora")]
    write_comparison(path, ComparisonResult(task="t\ud800", decoder="d", seed=0, rungs=rungs))
    whole, changed = read_whole_rungs(path)
    assert [rung.method for rung in whole] == ["zero_shot", "few_shot", "lora"] and not changed
    content = json.loads(path.read_text())
    content["rungs"][1]["seconds"] = 0.02
    content["rungs"][2] = {"method": "lora", "status": "done"}
    write_json(path, content)
    whole, changed = read_whole_rungs(path)
    assert [rung.method for rung in whole] == ["zero_shot"] and changed == ["few_shot", "lora"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 200_000, '{"seed": ' + "9" * 6000 + "}", "\x00"]
)
def test_a_comparison_that_is_no_json_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(UserError, match="comparison.json") as told:
        read_comparison(tmp_path / "comparison.json")
    assert "\n" not in str(told.value) and len(str(told.value)) < 500
