"""judge: recorded results of every kind are read, paired by question, and compared."""

import csv
import json
import sys
from pathlib import Path

import pytest
from made_results import done_rung
from recorded_results import (
    GOOD,
    POOR,
    compare,
    inspect_log,
    prediction_rows,
    question,
    sample_rows,
    write_inspect,
    write_lines,
)

from adapt_jax.cli.main import main
from adapt_jax.evaluation.judging.judge import judge
from adapt_jax.evaluation.over_seeds import compare_runs, runs_interval
from adapt_jax.evaluation.report.files import write_comparison
from adapt_jax.evaluation.results import ComparisonResult, Recommendation
from adapt_jax.evaluation.significance import mcnemar, paired_difference
from adapt_jax.utils.errors import UserError


def write_kinds(folder: Path, right: list[bool]) -> dict[str, Path]:
    """The same verdicts as every program records them."""
    rows = [{"id": f"test-{n}", "correct": str(one)} for n, one in enumerate(right)]
    table = folder / "verdicts.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(
        "question;passed\n" + "".join(f"{question(n)};{one:d}\n" for n, one in enumerate(right))
    )
    letters = ["C" if one else "I" for one in right]
    return {
        "predictions": write_lines(folder / "predictions.jsonl", prediction_rows(right)),
        "verdicts": write_lines(folder / "verdicts.jsonl", rows),
        "table": table,
        "lm_eval": write_lines(
            folder / "samples_apples_2025-05-12T20-28-13.123456.jsonl", sample_rows(right)
        ),
        "inspect": write_inspect(folder / "log.json", inspect_log(letters)),
        "inspect_zip": write_inspect(folder / "log.eval", inspect_log(letters)),
    }


def test_every_kind_gives_the_same_judgement_alone_and_against_each_other(tmp_path: Path):
    good, poor = write_kinds(tmp_path / "good", GOOD), write_kinds(tmp_path / "poor", POOR)
    above = sum(a and not b for a, b in zip(GOOD, POOR, strict=True))
    below = sum(b and not a for a, b in zip(GOOD, POOR, strict=True))
    difference, low, high = paired_difference(GOOD, POOR)
    without_text = {"verdicts"}  # which has ids of this project only
    for kind in good:
        for other in poor:
            sides = {kind, other}
            if kind != other and without_text & sides and "predictions" not in sides:
                continue
            found = compare(good[kind], poor[other])
            assert (found.n, found.only_first, found.only_second) == (40, 0, 0), (kind, other)
            assert (found.first_is_better, found.second_is_better) == (above, below)
            assert found.p_value == pytest.approx(mcnemar(above, below))
            assert (found.difference, *found.ci95) == pytest.approx((difference, low, high))
            assert (found.test, found.better) == ("mcnemar", "first")


def test_ids_that_mean_other_questions_are_not_paired(tmp_path: Path):
    # lm-eval counts from 0 and inspect from 1: the ids overlap, shifted by one question
    samples = write_lines(tmp_path / "samples_a_2025-01-01T00-00-00.jsonl", sample_rows(GOOD))
    log = write_inspect(tmp_path / "log.json", inspect_log(["C" if one else "I" for one in GOOD]))
    found = compare(samples, log)
    assert (found.n, found.difference, found.paired_by) == (40, 0.0, "question")
    # ids that are equal, and no question that is
    rows = prediction_rows(GOOD)
    for number, row in enumerate(rows):
        row["question"] = f"Other question {number}?"
    one = write_lines(tmp_path / "one.jsonl", prediction_rows(GOOD))
    other = write_lines(tmp_path / "other.jsonl", rows)
    with pytest.raises(UserError, match='the ids are the same, but not the questions: "test-0"'):
        compare(one, other)
    with pytest.raises(UserError, match="no id and no text of a question is in both"):
        compare(one, write_lines(tmp_path / "third.jsonl", [{"id": "x", "correct": 1}]))


def test_unpaired_questions_are_counted(tmp_path: Path):
    one = write_lines(tmp_path / "one.jsonl", prediction_rows(GOOD))
    other = write_lines(tmp_path / "other.jsonl", prediction_rows(POOR)[5:])
    assert compare(one, other).only_first == 5 and compare(other, one).only_second == 5
    few = write_lines(tmp_path / "few.jsonl", prediction_rows(POOR)[:10])
    rest = write_lines(tmp_path / "rest.jsonl", prediction_rows(POOR)[8:])
    [note] = judge([str(few), str(rest)]).result.notes
    assert note.endswith("only 2 of 10 questions are in both")


def test_graded_scores_are_compared_by_a_paired_bootstrap(tmp_path: Path):
    rows = [row | {"score": 0.5 + n % 3 / 10} for n, row in enumerate(prediction_rows(GOOD))]
    one = write_lines(tmp_path / "one.jsonl", rows)
    lower = [row | {"score": row["score"] - 0.1 * (n % 2)} for n, row in enumerate(rows)]
    other = write_lines(tmp_path / "two.jsonl", lower)
    found = compare(one, other)
    assert (found.test, found.better) == ("paired_bootstrap", "first")
    assert found.difference == pytest.approx(0.05) and found.ci95[0] > 0
    assert judge([str(one), str(other)]).result.sides[0].metric == "score"
    # asked for, the verdicts
    assert compare(one, other, metrics=["correct"]).test == "mcnemar"


def test_clusters_are_drawn_as_a_whole(tmp_path: Path):
    for kind, field in (("predictions", "category"), ("lm_eval", "topic"), ("inspect", "topic")):
        good, poor = write_kinds(tmp_path / "g", GOOD), write_kinds(tmp_path / "p", POOR)
        found = compare(good[kind], poor[kind], cluster=field)
        assert (found.test, found.clusters) == ("cluster_bootstrap", 20)
    with pytest.raises(UserError, match="no field 'passage' to cluster by"):
        compare(good["predictions"], poor["predictions"], cluster="passage")


def test_several_runs_and_epochs_are_mean_and_interval(tmp_path: Path):
    runs = [[one != (n == seed) for n, one in enumerate(GOOD)] for seed in range(3)]
    for seed, right in enumerate(runs):
        write_lines(tmp_path / f"seed{seed}.jsonl", prediction_rows(right))
    other = write_lines(tmp_path / "other.jsonl", prediction_rows(POOR))
    result = judge([str(tmp_path / "seed*.jsonl"), str(other)]).result
    side = result.sides[0]
    assert side.run_means == pytest.approx([sum(right) / 40 for right in runs])
    assert side.n == 40 and side.ci95_over_runs[0] < side.mean < side.ci95_over_runs[1]
    assert result.comparisons[0].test == "t_over_seeds"
    assert side.ci95 == runs_interval(runs)
    expected = compare_runs(runs, [POOR])
    assert result.comparisons[0].p_value == expected.p_value
    assert result.comparisons[0].ci95 == (expected.low, expected.high)
    epochs = inspect_log(["C" if one else "I" for one in GOOD], epochs=3)
    epochs["samples"][0]["scores"]["match"]["value"] = "C"  # one epoch of question 1
    log = write_inspect(tmp_path / "epochs.json", epochs)
    side = judge([str(log), str(other)]).result.sides[0]
    assert len(side.run_means) == 3 and side.mean == pytest.approx((30 + 1 / 3) / 40)


def test_runs_that_differ_more_than_questions_can_settle_ask_for_more_runs(tmp_path: Path):
    for seed, share in enumerate((1.0, 0.4, 0.7)):
        right = [n < share * 40 for n in range(40)]
        write_lines(tmp_path / f"seed{seed}.jsonl", prediction_rows(right))
    other = write_lines(tmp_path / "other.jsonl", prediction_rows([n < 24 for n in range(40)]))
    found = judge([str(tmp_path / "seed*.jsonl"), str(other)]).result.comparisons[0]
    assert found.difference == pytest.approx(0.1) and found.better is None
    assert found.questions_needed is None is found.more_questions
    assert found.sentence.endswith("more runs (seeds) may.")


def test_runs_of_different_questions_are_compared_by_their_means(tmp_path: Path):
    write_lines(tmp_path / "seed0.jsonl", prediction_rows(GOOD))
    write_lines(tmp_path / "seed1.jsonl", prediction_rows(GOOD)[:30])
    other = write_lines(tmp_path / "other.jsonl", prediction_rows(POOR))
    result = judge([str(tmp_path / "seed*.jsonl"), str(other)]).result
    assert result.comparisons[0].test == "paired_bootstrap"


def save_ladder(folder: Path, *, is_enough: bool = True) -> Path:
    rungs = {"zero_shot": POOR, "few_shot": GOOD, "lora": [not one for one in GOOD]}
    for name, right in rungs.items():
        write_lines(folder / "predictions" / f"{name}.jsonl", prediction_rows(right))
    done = [done_rung(name, right) for name, right in rungs.items()]
    recommended = Recommendation(
        method="few_shot", is_enough=is_enough, most_accurate="few_shot", tests=[], sentence=""
    )
    result = ComparisonResult(
        task="t", decoder="d", seed=0, best="few_shot", rungs=done, recommendation=recommended
    )
    write_comparison(folder / "comparison.json", result)
    return folder


def test_an_output_folder_stands_for_its_recommended_rung_or_for_all(tmp_path: Path):
    folder = save_ladder(tmp_path / "ladder")
    poor = write_lines(tmp_path / "evaluated" / "predictions.jsonl", prediction_rows(POOR))
    found = judge([str(folder), str(poor.parent)]).result
    assert found.comparisons[0].mean_first == 0.75
    assert found.notes[0].endswith("its recommended rung, few_shot")
    poorest = save_ladder(tmp_path / "poorest", is_enough=False)
    notes = judge([str(poorest), str(poor.parent)]).result.notes
    assert notes[0].endswith("its recommended rung, few_shot, though none is enough")
    (folder / "adaptations" / "lora").mkdir(parents=True)
    assert compare(folder / "adaptations" / "lora", folder).mean_first == 0.25
    all_rungs = judge([str(folder)]).result
    assert [Path(side.name).stem for side in all_rungs.sides] == ["few_shot", "zero_shot", "lora"]
    first, second = all_rungs.comparisons
    # Holm: the smaller p-value twice, the other one once
    smaller, larger = sorted((first, second), key=lambda pair: pair.p_value)
    assert smaller.p_value_holm == pytest.approx(min(1, 2 * smaller.p_value))
    assert larger.p_value_holm == pytest.approx(max(larger.p_value, smaller.p_value_holm))


def test_what_is_not_settled_says_how_many_more_questions_would(tmp_path: Path):
    slightly = [one or n == 0 for n, one in enumerate(GOOD)]
    one = write_lines(tmp_path / "one.jsonl", prediction_rows(slightly))
    other = write_lines(tmp_path / "other.jsonl", prediction_rows(GOOD))
    found = compare(one, other)
    assert found.better is None and found.p_value == 1.0
    # a discordance of 1/40, all of it in favour of one side
    share = 1 / 40
    expected = (1.959964 * share**0.5 + 0.841621 * (share - share**2) ** 0.5) ** 2 / share**2
    assert found.questions_needed == pytest.approx(expected, abs=1)
    assert found.more_questions == found.questions_needed - 40
    same = compare(one, one)
    assert same.more_questions is None and same.p_value == 1 and same.difference == 0
    assert "no difference on 40 questions" in same.sentence


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "holds no rows"),
        ("a.jsonl", '{"id": 1, "correct": true}\n{"id": 1, "correct": true}', "line 2: .* twice"),
        ("a.jsonl", '{"id": 1, "correct": "maybe"}', "line 1: correct: expected a number"),
        ("a.jsonl", '{"name": 1, "correct": 1}', "no column of ids"),
        ("a.jsonl", '{"id": 1, "words": 1}', "no column of scores"),
        ("a.jsonl", '{"id": 1, "correct": null}', "holds no scored answer"),
        ("a.csv", "id,correct\n,1\n", "line 2: id is empty"),
        ("a.json", '{"eval": {}, "status": "success"}', "a log without samples"),
        ("a.json", '{"eval": {}, "status": "s", "samples": [{"id": 1}]}', "holds no score"),
        ("a.eval", "no zip", "not a readable log of inspect_ai"),
        ("a.json", '{"results": {}, "configs": {}}', "samples are not beside it"),
        (
            "a.jsonl",
            '{"id": 1, "answer": "5", "vote": {}, "candidates": []}',
            "no verdict `correct`; predict writes answers only",
        ),
    ],
)
def test_what_cannot_be_judged_is_one_line(tmp_path: Path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    good = write_lines(tmp_path / "good.jsonl", prediction_rows(GOOD))
    with pytest.raises(UserError, match=message) as told:
        judge([str(tmp_path / name), str(good)])
    assert name in str(told.value) and "\n" not in str(told.value) and len(str(told.value)) < 400
    assert main(["judge", str(tmp_path / name), str(good)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_prints_and_writes(tmp_path: Path, capsys):
    one = write_lines(tmp_path / "one.jsonl", prediction_rows(GOOD))
    other = write_lines(tmp_path / "other.jsonl", prediction_rows(POOR))
    differ = tmp_path / "differ.csv"
    assert main(["judge", str(one), str(other), "--output", str(differ), "--show", "2"]) == 0
    out = capsys.readouterr().out
    assert "one.jsonl is better than …" in out and "+45.0 points" in out
    assert "McNemar's exact test" in out and "(2 are shown" in out and question(2) in out
    rows = list(csv.DictReader(differ.open()))
    assert len(rows) == sum(a != b for a, b in zip(GOOD, POOR, strict=True))
    assert {row["first_score"] for row in rows} == {"0.0", "1.0"}
    lines = tmp_path / "differ.jsonl"
    assert main(["judge", str(one), str(other), "--json", "--output", str(lines)]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["better"] == "first"
    assert len(lines.read_text().splitlines()) == len(rows)
    assert main(["judge", str(one), str(other), "--output", "differ.txt"]) == 2
    assert main(["judge", str(one)]) == 2
    assert main(["judge", str(one), str(tmp_path / "onee.jsonl")]) == 2
    assert "did you mean 'one.jsonl'" in capsys.readouterr().err


def test_judging_starts_without_jax(tmp_path: Path):
    import subprocess

    one = write_lines(tmp_path / "one.jsonl", prediction_rows(GOOD))
    code = (
        "import sys; from adapt_jax.evaluation.judging.judge import judge; "
        f"judge([{str(one)!r}] * 2); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
