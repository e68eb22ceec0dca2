"""judge reads the results of lm-evaluation-harness, inspect_ai and tables, of any version."""

import json
import zipfile
from pathlib import Path

import pytest
from recorded_results import (
    GOOD,
    POOR,
    compare,
    inspect_log,
    prediction_rows,
    sample_rows,
    write_inspect,
    write_lines,
)

from adapt_jax.evaluation.judging.judge import judge
from adapt_jax.evaluation.judging.scored import read_score
from adapt_jax.utils.errors import UserError


def test_logs_of_inspect_ai_of_other_versions_are_read_as_a_whole(tmp_path: Path):
    """Ids with slashes, samples written twice, attachments, one score without a name, no header."""
    poor = write_lines(tmp_path / "other.jsonl", prediction_rows(POOR))
    log = inspect_log(["C" if one else "I" for one in GOOD])
    for n, sample in enumerate(log["samples"]):
        sample["id"] = f"maths/apples/{n}"
        text = sample["input"][1]["content"]
        sample["attachments"] = {"0f": text}
        sample["input"][1]["content"] = "attachment://0f"
    slashes = write_inspect(tmp_path / "slashes.eval", log)
    found = judge([str(slashes), str(poor)]).result
    assert found.sides[0].n == 40 and found.comparisons[0].paired_by == "question"
    assert found.comparisons[0].n == 40 and found.sides[0].mean == 0.75
    # a sample that was asked again
    first = log["samples"][0]
    again = {**first, "scores": {"match": {"value": "C"}}}
    with zipfile.ZipFile(slashes, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr(f"samples/{first['id']}_epoch_1.json", json.dumps(again))
    assert judge([str(slashes), str(poor)]).result.sides[0].mean == 31 / 40
    # the first versions
    for sample in log["samples"]:
        sample["score"] = sample.pop("scores")["match"]
    (tmp_path / "first.json").write_text(json.dumps(log))
    side = judge([str(tmp_path / "first.json"), str(poor)]).result.sides[0]
    assert (side.mean, side.metric) == (0.75, "score")
    with zipfile.ZipFile(tmp_path / "2024.eval", "w") as packed:
        packed.writestr("start.json", json.dumps({"version": 2, "eval": log["eval"]}))
        for sample in log["samples"]:
            packed.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
        packed.writestr("results.json", json.dumps({"status": "error"}))
    result = judge([str(tmp_path / "2024.eval"), str(poor)]).result
    assert result.sides[0].mean == 0.75 and "the status of this log is 'error'" in result.notes[0]


def test_results_of_lm_eval_with_their_samples_and_verdicts_as_texts(tmp_path: Path):
    rows = sample_rows(GOOD)
    for row in rows:  # as old versions write NumPy's booleans
        row |= {"acc": str(bool(row.pop("exact_match"))), "metrics": ["acc"], "prompt_hash": "1"}
    samples = write_lines(tmp_path / "samples_apples_2025-01-01T00-00-00.5.jsonl", rows)
    poor = write_lines(tmp_path / "other.jsonl", prediction_rows(POOR))
    found = judge([str(samples), str(poor)]).result
    assert found.sides[0].mean == 0.75 and found.sides[0].metric == "acc"
    whole = {"results": {}, "configs": {}, "samples": {"apples": sample_rows(GOOD)}}
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    found = judge([str(tmp_path / "whole.json"), str(poor)]).result
    assert (found.sides[0].mean, found.comparisons[0].n) == (0.75, 40)
    whole["samples"]["pears"] = sample_rows(POOR)
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    side = judge([str(tmp_path / "whole.json"), str(tmp_path / "whole.json")]).result.sides[0]
    assert side.n == 80 and side.mean == (30 + sum(POOR)) / 80


def test_metrics_and_filters_of_lm_eval_are_chosen_by_name(tmp_path: Path):
    filters = ("strict-match", "flexible-extract")
    one = tmp_path / "one" / "samples_gsm8k_2025-01-01T00-00-00.5.jsonl"
    other = tmp_path / "other" / one.name
    write_lines(one, sample_rows(GOOD, filters))
    write_lines(other, sample_rows(POOR, filters))
    result = judge([str(one), str(other)]).result
    assert result.sides[0].metric == "exact_match, filter strict-match"
    assert result.sides[0].mean == 0.75
    assert compare(one, other, filter="flexible-extract").difference == 0
    with pytest.raises(UserError, match="no filter 'strict'; did you mean 'strict-match'"):
        compare(one, other, filter="strict")
    with pytest.raises(UserError, match="no metric 'exactmatch'; did you mean 'exact_match'"):
        compare(one, other, metrics=["exactmatch"])
    rows = [row | {"metrics": ["bleu"], "bleu": ["a", "b"]} for row in sample_rows(GOOD)]
    with pytest.raises(UserError, match="holds no score for each question"):
        compare(write_lines(tmp_path / "pairs.jsonl", rows), other)


def test_a_results_folder_of_lm_eval_is_read_task_by_task(tmp_path: Path):
    for side, right in (("one", GOOD), ("other", POOR)):
        for task in ("apples", "pears_easy"):
            for date in ("2025-01-01T00-00-00.5", "2025-02-01T00-00-00.5"):
                rows = sample_rows(right if date.startswith("2025-02") else [False] * 40)
                write_lines(tmp_path / side / "my__model" / f"samples_{task}_{date}.jsonl", rows)
    result = judge([str(tmp_path / "one"), str(tmp_path / "other")]).result
    assert result.comparisons[0].n == 80 and result.sides[0].mean == 0.75
    assert "of 2 logs of apples the last one is read" in result.notes[0]
    write_lines(tmp_path / "one" / "second" / "samples_apples_2025-01-01T00-00-00.jsonl", [])
    with pytest.raises(UserError, match="logs of 2 models"):
        judge([str(tmp_path / "one"), str(tmp_path / "other")])


def test_samples_that_the_harness_itself_writes_are_read(tmp_path: Path, monkeypatch):
    tracker_module = pytest.importorskip("lm_eval.loggers.evaluation_tracker")
    for side, right in (("one", GOOD), ("other", POOR)):
        tracker = tracker_module.EvaluationTracker(output_path=str(tmp_path / side))
        tracker.general_config_tracker.model_name_sanitized = "model"
        tracker.date_id = "2025-05-12T20-28-13.123456"
        samples = sample_rows(right)
        for sample in samples:
            sample["arguments"] = [("Question", {"until": ["\n"]})]
        tracker.save_results_samples("apples", samples)
    found = compare(tmp_path / "one", tmp_path / "other")
    assert (found.n, found.difference, found.paired_by) == (40, pytest.approx(18 / 40), "id")


def test_unscored_samples_are_left_out_and_counted(tmp_path: Path):
    log = inspect_log(["C", "I", "P", "N", float("nan"), True, 0.25])
    del log["samples"][1]["scores"]  # as after an error
    path = write_inspect(tmp_path / "log.json", log)
    side = judge([str(path), str(path)]).result.sides[0]
    assert (side.n, side.unscored) == (5, 2) and side.mean == pytest.approx(2.75 / 5)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), "1e400", [], {}])
def test_a_score_that_is_no_finite_number_is_one_line(value: object):
    with pytest.raises(UserError, match="log.json: match: expected a number or a verdict"):
        read_score(value, "log.json", "match")


def test_scores_of_several_values_are_named_by_their_key(tmp_path: Path):
    log = inspect_log([{"style": 1.0, "facts": 0.0}, {"style": 0.0, "facts": 0.0}])
    path = write_inspect(tmp_path / "log.eval", log)
    assert judge([str(path), str(path)], metrics=["match.facts"]).result.sides[0].mean == 0
    found = judge([str(path), str(path)]).result
    assert found.sides[0].metric == "match.style" and "--metric names others" in found.notes[0]


@pytest.mark.parametrize(
    ("written", "score"),
    [
        *((text, 1.0) for text in ("y", "T", "✓", "✅", "100%", "1,0", "1e0")),
        *((text, 0.0) for text in ("n", "f", "✗", "❌", "0 %", "0,0")),
        *((text, 0.375) for text in ("37.5%", "37,5 %", "0,375", ".375")),
    ],
)
def test_scores_are_read_as_tables_hold_them(written: str, score: float) -> None:
    assert read_score(written, "a.csv, line 2", "score") == score


@pytest.mark.parametrize("written", ["maybe", "1,234", "5 points", "50 %%", "1,2,3", "inf"])
def test_what_is_no_score_is_refused_with_its_line(written: str) -> None:
    with pytest.raises(UserError, match="a.csv, line 2: score: expected a number or a verdict"):
        read_score(written, "a.csv, line 2", "score")


def test_tables_of_spreadsheets_are_paired(tmp_path: Path) -> None:
    right = [n % 3 > 0 for n in range(30)]
    rows = [f"{n}.0;{'0,75' if one else '0,25'}\n" for n, one in enumerate(right)]
    (tmp_path / "a.csv").write_text("ID;Score\n" + "".join(rows))
    (tmp_path / "b.csv").write_text("id,score\n" + "".join(f"{n},0.5\n" for n in range(30)))
    (pair,) = judge([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]).result.comparisons
    assert (pair.n, pair.paired_by) == (30, "id")
    assert pair.mean_first == pytest.approx((0.75 * 20 + 0.25 * 10) / 30)
