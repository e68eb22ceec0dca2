"""The ladder as a picture: accuracy or mean score with its 95 % interval, and a question's cost."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from adapt_jax.evaluation.report.text import is_graded
from adapt_jax.evaluation.results import ComparisonResult, DoneRung
from adapt_jax.utils import files
from adapt_jax.utils.display_text import display_text

__all__ = ["save_picture"]

PROMPTED, TRAINED = "#3b76a8", "#d1793b"  # colours of the bars


def save_picture(result: ComparisonResult, path: Path, title: str) -> None:
    """Draws the rungs that were measured into a PNG file; without any, nothing."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: needs no display, keeps no state

    rungs = [rung for rung in result.rungs if isinstance(rung, DoneRung)]
    if not rungs:
        return
    # foreign text is no formula, and a letter that the font lacks is no news
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = Figure(figsize=(9, 0.62 * len(rungs) + 1.7), layout="constrained")
        accuracy, cost = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _draw_accuracy(accuracy, rungs, result)
        _draw_cost(cost, rungs)
        for axes in (accuracy, cost):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="x", color="#ddd", linewidth=0.6)
            axes.set_axisbelow(True)
        shown = display_text(title, 120)
        figure.suptitle(f"{shown}    blue: only prompted, orange: trained", fontsize=10)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=130)
    files.write_bytes(path, picture.getvalue())


def _draw_accuracy(axes: Any, rungs: Sequence[DoneRung], result: ComparisonResult) -> None:
    places = list(range(len(rungs)))
    shares = [100 * rung.score for rung in rungs]
    below = [100 * max(0.0, rung.score - rung.score_ci95[0]) for rung in rungs]
    above = [100 * max(0.0, rung.score_ci95[1] - rung.score) for rung in rungs]
    axes.barh(places, shares, color=_choose_colors(rungs), height=0.62)
    axes.errorbar(shares, places, xerr=(below, above), fmt="none", ecolor="#222", capsize=3)
    for place, rung in zip(places, rungs, strict=True):
        seeds = [100 * run.score for run in rung.runs or ()]
        if seeds:
            axes.plot(seeds, [place] * len(seeds), "o", color="#222", markersize=3, alpha=0.6)
        right = 100 * rung.score_ci95[1] + 1.5
        axes.text(right, place, f"{100 * rung.score:.1f}", va="center", fontsize=9)
    if result.baseline is not None:
        axes.axvline(100 * result.baseline.accuracy, color="#777", linestyle=":")
    axes.set_yticks(places, [display_text(rung.method.replace("_", " "), 40) for rung in rungs])
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    measure = f"mean {rungs[0].scorer}, 0 to 100" if is_graded(rungs[0]) else "accuracy in %"
    label = f"{display_text(measure, 40)}, with 95 % interval"
    label += "; points: seeds" * any(rung.runs for rung in rungs)
    axes.set_xlabel(label + "; dotted: the commonest label" * (result.baseline is not None))


def _draw_cost(axes: Any, rungs: Sequence[DoneRung]) -> None:
    tokens = [rung.tokens for rung in rungs]
    axes.barh(range(len(rungs)), tokens, color=_choose_colors(rungs), height=0.62)
    widest = max(tokens) or 1.0
    for place, count in enumerate(tokens):
        axes.text(count + 0.02 * widest, place, f"{count:,.0f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.2 * widest)
    axes.xaxis.set_minor_formatter("")  # labels of minor ticks would overlap
    axes.set_xlabel("tokens per question, prompt and generated")


def _choose_colors(rungs: Sequence[DoneRung]) -> list[str]:
    return [TRAINED if rung.trainable_parameters else PROMPTED for rung in rungs]
