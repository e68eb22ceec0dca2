"""What a run shows and leaves behind: live progress, a table, a picture, and files.

Everything here takes the rungs of a comparison as the dictionaries that stand in comparison.json.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from adapt_jax.evaluation.evaluate import Evaluation

Update = Callable[..., None]  # (done, total, note=""): how far a stage has come
WIDE = 124  # columns of a table that goes into a file, where no terminal sets the width
EVERY = 15.0  # seconds between two plain lines of progress


def new_console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


class Display:
    """Live bars in a terminal, a plain line now and then elsewhere, nothing when not ``shown``."""

    def __init__(self, shown: bool = True, console: Console | None = None):
        self.shown, self.console = shown, console or new_console()

    def line(self, text: str) -> None:
        """Says something that stays."""
        if self.shown:
            self.console.print(text, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Yields ``update(done, total, note="")`` for the time that a piece of work takes."""
        if not self.shown:
            yield lambda done, total, note="": None
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description:<32}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console, transient=True) as bars:
                bar = bars.add_task(name, total=None, note="")
                yield lambda done, total, note="": bars.update(
                    bar, completed=done, total=total, note=note
                )
        else:
            yield self.plain(name)

    def plain(self, name: str) -> Update:
        """Prints at most one line every EVERY seconds, with the time left by the pace so far."""
        last = began = time.monotonic()
        first: int | None = None  # what an earlier run has done says nothing about the pace

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal last, first
            first = done if first is None else first
            now = time.monotonic()
            if now - last >= EVERY:
                last = now
                parts = [f"{done}/{total}", note]
                if done > first:
                    left = round((now - began) * (total - done) / (done - first))
                    parts.append(f"{left // 60}:{left % 60:02d} left")
                self.line(f"  {name} " + ", ".join(filter(None, parts)))

        return update


def percent(share: float) -> str:
    """0.725 -> "72.5 %"."""
    return f"{100 * share:.1f} %"


def describe(rung: Mapping[str, Any]) -> str:
    """One line about a rung, for a log."""
    if rung["status"] != "done":
        return f"{rung['method']}: skipped, {rung['reason']}"
    low, high = rung["ci95"]
    text = f"{rung['method']}: {percent(rung['accuracy'])} ({percent(low)} to {percent(high)})"
    if rung.get("vs_previous"):
        text += f", against {rung['vs_previous']['method']} {difference(rung)}"
    return text


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "accuracy": lambda rung: percent(rung["accuracy"]),
    "95 %\ninterval": lambda rung: f"{100 * rung['ci95'][0]:.1f}–{100 * rung['ci95'][1]:.1f}",
    "against the\nrung below": lambda rung: difference(rung),
    "prompt\ntokens": lambda rung: f"{rung['prompt_tokens']:,.0f}",
    "generated\ntokens": lambda rung: f"{rung['generated_tokens']:,.1f}",
    "seconds /\nquestion": lambda rung: f"{rung['seconds']:.4f}",
    "trained\nparameters": lambda rung: f"{rung['trainable_parameters']:,}",
    "training\nseconds": lambda rung: f"{rung['train_seconds']:,.0f}",
}


def difference(rung: Mapping[str, Any]) -> str:
    """ "+12.5, p < 0.001": percentage points over the rung below, and McNemar's p-value."""
    against = rung.get("vs_previous")
    if not against:
        return "–"
    p = rung["p_value_vs_previous"]
    return f"{100 * against['difference']:+.1f}, p " + ("< 0.001" if p < 0.001 else f"= {p:.3f}")


def table(rungs: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The ladder as a table, one row per rung; a skipped one shows its reason below."""
    result = Table(title=title, title_justify="left", caption_justify="left")
    result.add_column("rung", no_wrap=True)
    for name in COLUMNS:
        result.add_column(name, justify="right", no_wrap=True)
    best = max((r["accuracy"] for r in rungs if r["status"] == "done"), default=None)
    for rung in rungs:
        if rung["status"] == "done":
            cells = [cell(rung) for cell in COLUMNS.values()]
            bold = "bold" if rung["accuracy"] == best else None
            result.add_row(rung["method"], *cells, style=bold)
        else:
            result.add_row(rung["method"], "skipped", *["–"] * (len(COLUMNS) - 1), style="dim")
    notes = [describe(rung) for rung in rungs if rung["status"] != "done"]
    notes += [describe_votes(rung) for rung in rungs if rung.get("accuracy_majority") is not None]
    notes += [describe_kinds(rung) for rung in rungs if rung.get("unseen_kinds")]
    if notes:
        result.caption = "\n".join(notes).replace("[", r"\[")
    return result


def describe_votes(rung: Mapping[str, Any]) -> str:
    """The other vote, how often candidates repeat each other or say nothing, what was saved."""
    text = (
        f"{rung['method']}: {percent(rung['accuracy_majority'])} by plain majority; "
        f"{percent(rung['repeat_share'])} of the candidates repeat another's reasoning, "
        f"{percent(rung['abstained_candidates'])} give no answer"
    )
    if rung["saved_share"]:
        text += f"; early stopping saved {percent(rung['saved_share'])} of the candidates"
    return text


def describe_kinds(rung: Mapping[str, Any]) -> str:
    """Zero-shot accuracy on kinds of instruction that training left out."""
    kinds = ", ".join(
        f"{kind} {percent(judged['before'])} → {percent(judged['after'])}"
        for kind, judged in rung["unseen_kinds"].items()
    )
    return f"{rung['method']}: kinds it has not seen, before → after: {kinds}"


def describe_evaluation(evaluation: Evaluation) -> Iterator[str]:
    """Everything that was measured, a line each."""
    for name, value in evaluation.to_dict().items():
        if isinstance(value, dict):
            curve = ", ".join(f"{k}: {share:.4f}" for k, share in value.items())
            yield f"{name:<20} {curve}"
        elif name != "ci95":
            yield f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value}"
    yield "{:<20} {:.4f} to {:.4f}".format("95 % interval", *evaluation.ci95)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole: whoever looks sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """A JSON file; numbers that are no numbers become null, because JSON knows none."""
    write_text(path, json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n")


def finite(content: Any) -> Any:
    """The content with nan and infinity replaced by None."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows)


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Every question with its candidates, answer and vote, and whether it is right."""
    rows = (
        {"question": judged.example.question, "expected": judged.example.answer}
        | {"correct": judged.correct}
        | judged.answered.to_dict()
        for judged in evaluation.judged
    )
    write_text(path, json_lines(rows))


def picture(rungs: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """The ladder as an image: accuracy with its 95 % interval, and what a question costs."""
    from matplotlib.figure import Figure  # drawn without pyplot: needs no display, keeps no state

    done = [rung for rung in rungs if rung["status"] == "done"]
    if not done:
        return
    figure = Figure(figsize=(9, 0.62 * len(done) + 1.7), layout="constrained")
    accuracy, cost = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = list(range(len(done)))
    shares = [100 * rung["accuracy"] for rung in done]
    below = [100 * (rung["accuracy"] - rung["ci95"][0]) for rung in done]
    above = [100 * (rung["ci95"][1] - rung["accuracy"]) for rung in done]
    tuned = [rung["trainable_parameters"] > 0 for rung in done]
    colors = ["#d1793b" if trained else "#3b76a8" for trained in tuned]
    accuracy.barh(places, shares, color=colors, height=0.62)
    accuracy.errorbar(shares, places, xerr=(below, above), fmt="none", ecolor="#222", capsize=3)
    for place, rung in zip(places, done, strict=True):
        right = 100 * rung["ci95"][1] + 1.5
        accuracy.text(right, place, f"{100 * rung['accuracy']:.1f}", va="center", fontsize=9)
    accuracy.set_yticks(places, [rung["method"].replace("_", " ") for rung in done])
    accuracy.set_xlim(0, 112)
    accuracy.set_xticks(range(0, 101, 20))
    accuracy.set_xlabel("accuracy in %, with 95 % interval")
    tokens = [rung["prompt_tokens"] + rung["generated_tokens"] for rung in done]
    cost.barh(places, tokens, color=colors, height=0.62)
    for place, count in enumerate(tokens):
        cost.text(count + 0.02 * max(tokens), place, f"{count:,.0f}", va="center", fontsize=9)
    cost.set_xlim(0, 1.2 * max(tokens))
    cost.xaxis.set_minor_formatter("")  # labels of minor ticks would overlap
    cost.set_xlabel("tokens per question, prompt and generated")
    for axes in (accuracy, cost):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#ddd", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.suptitle(f"{title}    blue: only prompted, orange: trained", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".new.{path.name}")
    figure.savefig(temporary, dpi=130)
    os.replace(temporary, path)
