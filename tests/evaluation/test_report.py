"""The table, the sentences under it and the picture: nothing is cut, nothing foreign is obeyed."""

import io
import warnings
from pathlib import Path

import pytest
from made_results import done_rung
from rich.console import Console

from adapt_jax.evaluation.report.picture import save_picture
from adapt_jax.evaluation.report.table import make_ladder_table
from adapt_jax.evaluation.report.text import describe_evaluation, describe_rung
from adapt_jax.evaluation.results import Baseline, ComparisonResult, SkippedRung
from adapt_jax.methods.registry import METHODS

HOSTILE = [
    "\x1b[31mred\x1b]8;;http://x\x07",
    "[link=http://x]here[/link]",
    "[/red] [bold",
    r"$\frac$ ${ $x_$",
    "line\nbreak\r\u2028 \u202eesrever",
    ":smile: 你好 😀",
    "x" * 5000,
]


def render(result: ComparisonResult, width: int = 80, **options) -> str:
    file = io.StringIO()
    table = make_ladder_table(result, result.task, **options)
    Console(file=file, width=width, force_terminal=False).print(table)
    return file.getvalue()


def whole_ladder(**fields) -> ComparisonResult:
    """Every rung with the widest numbers."""
    rungs = [
        done_rung(
            method,
            [True] * 9999 + [False],
            prompt_tokens=98_765.4,
            seconds=123.456,
            trainable_parameters=987_654_321,
        )
        for method in METHODS
    ]
    rungs = [
        rung.model_copy(
            update={
                "vs_previous": {"difference": -0.9999, "p_value": 1e-9, "ci95": (-1, 1)},
            }
        )
        for rung in rungs
    ]
    return ComparisonResult.model_construct(
        task="t", decoder="d", seed=0, baseline=None, recommendation=None, best="lora",
        rungs=rungs, warnings=[],
    ).model_copy(update=fields)  # fmt: skip


def typed_ladder() -> ComparisonResult:
    content = whole_ladder().model_dump(warnings=False)
    for rung in content["rungs"]:
        rung["vs_previous"] |= {"method": "zero_shot"}
    return ComparisonResult.model_validate(content)


def test_the_table_fits_into_80_columns_and_nothing_is_cut():
    text = render(typed_ladder())
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    for line, method in zip(text.splitlines()[4:], METHODS, strict=False):
        assert line.split() == [method, *"100.0 % 99.9–100.0 -100.0 <0.001 123 98,770 988M".split()]


def test_a_narrower_terminal_wraps_and_cuts_nothing():
    joined = "".join(render(typed_ladder(), 60, notes=False).split())
    assert "…" not in joined and "988M" in joined


def test_no_readable_answer_is_not_shown_as_zero_percent():
    rung = done_rung("zero_shot", [False] * 5, abstained=1.0, warnings=["none was read"])
    text = render(ComparisonResult(task="t", decoder="d", seed=0, rungs=[rung]))
    assert "no answer" in text and "0.0 %" not in text and "zero_shot: none was read" in text
    assert describe_rung(rung) == "zero_shot: no answer"


def test_baseline_skipped_rungs_and_scores_are_shown():
    rungs = [
        done_rung("zero_shot", [True, False], scorer="token_f1", score=0.625),
        SkippedRung(method="few_shot", reason="there is nothing to show"),
    ]
    baseline = Baseline(label="no", accuracy=0.5, n=2)
    result = ComparisonResult(task="t", decoder="d", seed=0, rungs=rungs, baseline=baseline)
    text = " ".join(render(result).split())  # the sentences wrap at the width of the table
    assert "62.5" in text and "50.0 %" in text
    assert "score: mean of token_f1, 0 to 100; correct: share that counts as right" in text
    assert 'always "no": 50.0 %' in text
    assert "tokens: per question; trained: parameters; p: McNemar's exact test" in text
    assert "few_shot: skipped, there is nothing to show" in text
    assert "always" not in render(result, notes=False)


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_is_shown_and_not_obeyed(text: str, tmp_path: Path):
    rung = done_rung(
        "zero_shot",
        [True, False],
        warnings=[text],
        unseen_categories={text: {"before": 0.5, "after": 1}},
        metrics={text[:40]: {text[:40]: 1.0}},
    )
    skipped = SkippedRung(method="few_shot", reason=text)
    result = ComparisonResult(
        task=text, decoder=text, seed=0, rungs=[rung, skipped],
        baseline=Baseline(label=text, accuracy=0.5, n=2),
    )  # fmt: skip
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system="truecolor")
    console.print(make_ladder_table(result, text))
    shown = file.getvalue()
    for sequence in ("\x1b[31m", "\x1b]8", "\x07", "\u202e", "\r"):
        assert sequence not in shown
    if text.startswith("["):
        assert text.split()[0] in shown  # markup stands there as it was written
    assert len(shown) < 30_000
    for line in [describe_rung(skipped), *describe_evaluation(rung)]:
        assert "\n" not in line and "\x1b" not in line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_picture(result, tmp_path / "ladder.png", text)
    assert (tmp_path / "ladder.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_measured_rung_there_is_no_picture(tmp_path: Path):
    rungs = [SkippedRung(method="lora", reason="no room")]
    save_picture(
        ComparisonResult(task="t", decoder="d", seed=0, rungs=rungs), tmp_path / "p.png", "t"
    )
    assert not (tmp_path / "p.png").exists()


def test_of_many_labels_the_first_are_printed():
    metrics = {"label_recall": {f"label {n:02}": 0.5 for n in range(77)}, "macro_f1": 0.25}
    lines = list(describe_evaluation(done_rung("zero_shot", [True, False], metrics=metrics)))
    [recall] = [line for line in lines if line.startswith("label_recall")]
    assert "label 11: 0.5000" in recall and recall.endswith("and 65 more")
    assert any(line.startswith("macro_f1") and line.endswith("0.2500") for line in lines)
