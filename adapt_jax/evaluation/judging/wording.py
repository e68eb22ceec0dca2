"""A judgement in words: the sentence of a comparison, the report, the table of questions."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.evaluation.judging.pairing import Pairing
from adapt_jax.evaluation.judging.results import JudgedPair, JudgedSide, Judgement
from adapt_jax.evaluation.report.text import format_p_value
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import to_json_lines, write_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "check_questions_file",
    "describe_judgement",
    "describe_pair",
    "make_questions_table",
    "write_questions",
]

TESTS = {
    "mcnemar": "McNemar's exact test",
    "paired_bootstrap": "paired bootstrap",
    "t_over_seeds": "Student's t over questions and runs",
    "cluster_bootstrap": "bootstrap of clusters",
}
MAX_NAME = 60  # letters of a side's name


def describe_pair(pair: JudgedPair) -> str:
    """Which side is better, or what would settle it, in one or two sentences."""
    first, second = (_shorten(name) for name in (pair.first, pair.second))
    scale = _Scale(pair.mean_first, pair.mean_second)
    if pair.better is not None:
        winner, loser = (first, second) if pair.better == "first" else (second, first)
        size = scale.points(abs(pair.difference)).lstrip("+")
        return f"{winner} is better than {loser}, by {size}."
    if pair.more_questions is not None:
        return (
            f"Not settled: {first} against {second}. If the true difference is the observed one, "
            f"about {pair.more_questions:,} more questions would show it (80 % power)."
        )
    if pair.difference:
        return (
            f"Not settled: {first} against {second}. The runs of a side differ too much for more "
            "questions to show the observed difference; more runs (seeds) may."
        )
    sentence = f"Not settled: {first} against {second}, no difference on {pair.n:,} questions."
    if pair.detectable_difference is not None:
        size = scale.points(pair.detectable_difference).lstrip("+")
        sentence += f" They would show one of {size} (80 % power)."
    return sentence


def describe_judgement(result: Judgement) -> Iterator[str]:
    """The sides, then each comparison, line by line."""
    for side in result.sides:
        yield from _describe_side(side)
    several = len(result.comparisons) > 1
    for pair in result.comparisons:
        yield ""
        yield from _describe_comparison(pair, several)
    for note in result.notes:
        yield f"note: {display_text(note, None)}"


def _describe_side(side: JudgedSide) -> Iterator[str]:
    scale = _Scale(side.mean, *side.ci95)
    low, high = map(scale.value, side.ci95)
    yield (
        f"{_shorten(side.name)}: {scale.value(side.mean)} (95 % interval {low} to "
        f"{high}), {side.n:,} questions"
    )
    yield f"  {side.kind}, {display_text(side.metric, MAX_NAME)}" + (
        f"; {side.unscored:,} without a score are left out" if side.unscored else ""
    )
    if side.ci95_over_runs is not None:
        low, high = map(scale.value, side.ci95_over_runs)
        means = ", ".join(map(scale.value, side.run_means[:10]))
        yield f"  {len(side.run_means)} runs: {means}; 95 % interval over runs {low} to {high}"


def _describe_comparison(pair: JudgedPair, several: bool) -> Iterator[str]:
    scale = _Scale(pair.mean_first, pair.mean_second)
    yield pair.sentence
    low, high = map(scale.points, pair.ci95)
    p_value = format_p_value(pair.p_value)
    test = TESTS[pair.test] + (f", {pair.clusters:,} clusters" if pair.clusters else "")
    line = f"  difference {scale.points(pair.difference)}, 95 % interval {low} to {high}; "
    line += f"p {'' if p_value.startswith('<') else '= '}{p_value} ({test})"
    if several:
        corrected = format_p_value(pair.p_value_holm)
        line += f", {corrected} with Holm's correction"
    yield line
    yield (
        f"  on {pair.n:,} questions of both, paired by {pair.paired_by}: "
        f"{scale.value(pair.mean_first)} against {scale.value(pair.mean_second)}; the first is "
        f"better on {pair.first_is_better:,}, the second on {pair.second_is_better:,}"
    )
    if pair.only_first or pair.only_second:
        yield (
            f"  not paired: {pair.only_first:,} questions of the first, {pair.only_second:,} of "
            "the second"
        )


def _shorten(name: str) -> str:
    """The name of a side; of a long path the end."""
    shown = display_text(name, None)
    return shown if len(shown) <= MAX_NAME else "…" + shown[1 - MAX_NAME :]


class _Scale:
    """Shares are shown in percent, other scores as they are."""

    def __init__(self, *values: float) -> None:
        self._is_share = all(-1e-9 <= value <= 1 + 1e-9 for value in values)

    def value(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self._is_share else f"{value:.4g}"

    def points(self, difference: float) -> str:
        return f"{100 * difference:+.1f} points" if self._is_share else f"{difference:+.4g}"


# ---- the questions on which the sides differ


def make_questions_table(
    result: Judgement, pairings: Sequence[Pairing], limit: int
) -> "Table | None":
    """The first questions on which the sides differ; None where there are none."""
    from rich import box
    from rich.table import Table

    rows = list(_list_differing(result, pairings))
    if not rows:
        return None
    several = len(pairings) > 1
    title = f"questions on which they differ: {len(rows):,}"
    if len(rows) > limit:
        title += f" ({limit} are shown, --output FILE writes all)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for heading in [*(["second side"] if several else []), "question", "expected"]:
        table.add_column(heading, overflow="fold")
    for heading in ("first", "second"):
        table.add_column(heading, overflow="fold")
    for row in rows[:limit]:
        cells = [row["second"]] if several else []
        cells += [str(row["question"] or row["id"]), str(row["expected"])]
        cells += [
            f"{row[f'{side}_score']:.3g} {row[f'{side}_answer']}" for side in ("first", "second")
        ]
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _plain(cell: str) -> Any:
    """Foreign text that a table shows as it is."""
    from rich.text import Text

    return Text(display_text(cell, 80))


def check_questions_file(path: Path) -> None:
    """Checks what the name of the file for the questions ends with.

    Raises:
        UserError: neither ``.csv`` nor ``.jsonl``.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--output {path}: expected a file that ends with .csv or .jsonl")


def write_questions(path: Path, result: Judgement, pairings: Sequence[Pairing]) -> int:
    """Writes all questions on which the sides differ; returns how many.

    Raises:
        UserError: the file cannot be written.
    """
    check_questions_file(path)
    rows = list(_list_differing(result, pairings))
    if path.suffix == ".jsonl":
        write_text(path, to_json_lines(rows))
        return len(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    return len(rows)


_COLUMNS = (
    *("first", "second", "id", "question", "expected"),
    *("first_score", "second_score", "first_answer", "second_answer"),
)


def _list_differing(result: Judgement, pairings: Sequence[Pairing]) -> Iterator[dict[str, Any]]:
    for pair, pairing in zip(result.comparisons, pairings, strict=True):
        for one, other in pairing.pairs:
            if one.score != other.score:
                yield {
                    "first": pair.first,
                    "second": pair.second,
                    "id": one.id or other.id,
                    "question": one.first.question or other.first.question,
                    "expected": one.first.expected or other.first.expected,
                    "first_score": one.score,
                    "second_score": other.score,
                    "first_answer": one.first.answer,
                    "second_answer": other.first.answer,
                }
