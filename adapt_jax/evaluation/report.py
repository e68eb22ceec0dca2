"""What a run shows and leaves behind: live progress, a table, a picture, and files.

Everything here takes the rungs of a comparison as the dictionaries that stand in comparison.json.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from adapt_jax.evaluation.evaluate import Evaluation
from adapt_jax.utils.files import to_json_lines, write_text


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


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Every question with its candidates, answer and vote, and whether it is right."""
    rows = (
        {"question": judged.example.question, "expected": judged.example.answer}
        | {"correct": judged.correct}
        | judged.answered.to_dict()
        for judged in evaluation.judged
    )
    write_text(path, to_json_lines(rows))


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
