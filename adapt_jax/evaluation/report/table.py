"""The ladder as a table of at most 80 columns; everything else is in comparison.json."""

from collections.abc import Callable

from rich import box
from rich.table import Table
from rich.text import Text

from adapt_jax.evaluation.report.text import (
    describe_notes,
    describe_score,
    format_p_value,
    has_no_answers,
    shows_score,
    shows_seeds,
)
from adapt_jax.evaluation.results import ComparisonResult, DoneRung, SkippedRung
from adapt_jax.utils.display_text import display_text

__all__ = ["make_ladder_table"]

Cell = Callable[[DoneRung], str]


def make_ladder_table(result: ComparisonResult, title: str, *, notes: bool = True) -> Table:
    """One row per rung, the recommended one in bold; with ``notes`` in sentences below.

    Fits into 80 columns where no method's name is longer than 18 letters; on a narrower terminal
    cells wrap, and nothing is cut.
    """
    # texts of their own, because they hold foreign text, which is no markup
    sentences = Text("\n".join(describe_notes(result)), style="default not italic")
    table = Table(
        title=Text(display_text(title)),
        caption=sentences if notes else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    columns = _make_columns(result)
    table.add_column("rung", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right", overflow="fold")
    for rung in result.rungs:
        name = Text(display_text(rung.method, 60))
        if isinstance(rung, SkippedRung):
            blanks = ["–"] * (len(columns) - 1)
            table.add_row(name, "skipped", *blanks, style="dim")
        else:
            cells = [cell(rung) for cell in columns.values()]
            table.add_row(name, *cells, style="bold" if rung.method == result.best else None)
    return table


def _make_columns(result: ComparisonResult) -> dict[str, Cell]:
    """The columns after the first one by their headings."""
    graded = shows_score(result)
    columns: dict[str, Cell] = {
        "score" if graded else "accuracy": describe_score,
        "95 %\ninterval": _format_interval,
        "vs rung\nbelow": _format_delta,
        "p": _format_p_value,
    }
    if shows_seeds(result):
        columns["seeds"] = _format_seeds
    elif graded:
        columns["correct"] = lambda rung: f"{100 * rung.accuracy:.1f} %"
    else:
        columns["seconds"] = lambda rung: f"{rung.seconds:.3g}"
    columns["tokens"] = lambda rung: f"{rung.tokens:,.0f}"
    columns["trained"] = lambda rung: _format_count(rung.trainable_parameters)
    return columns


def _format_interval(rung: DoneRung) -> str:
    if has_no_answers(rung):
        return "–"
    low, high = rung.score_ci95
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _format_seeds(rung: DoneRung) -> str:
    """The lowest and the highest score over the seeds."""
    if len(rung.runs or ()) < 2 or has_no_answers(rung):
        return "–"
    scores = [100 * run.score for run in rung.runs or ()]
    return f"{min(scores):.1f}–{max(scores):.1f}"


def _format_delta(rung: DoneRung) -> str:
    return "–" if rung.vs_previous is None else f"{100 * rung.vs_previous.difference:+.1f}"


def _format_p_value(rung: DoneRung) -> str:
    return "–" if rung.vs_previous is None else format_p_value(rung.vs_previous.p_value)


def _format_count(number: int) -> str:
    """1234567 -> "1.23M"."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
