"""Scores out of logs of lm-evaluation-harness: ``samples_TASK_DATE.jsonl`` (``--log_samples``).

Written by ``EvaluationTracker.save_results_samples`` (lm_eval/loggers/evaluation_tracker.py): a
line for each question and filter, with the question's record (``doc``), its hash, and each metric.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt_jax.evaluation.judging.scored import (
    ReadOptions,
    Run,
    ScoredAnswer,
    choose_metric,
    find_cluster,
    find_question,
    read_score,
)
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["find_samples", "is_samples", "parse_samples_name", "read_samples"]

SAMPLES_NAME = re.compile(
    r"samples_(?P<task>.+?)_(?P<date>\d{4}-\d{2}-\d{2}T[\d\-.]+)\.jsonl", re.DOTALL
)


def is_samples(values: Mapping[str, Any]) -> bool:
    """Whether a row is one of a samples file."""
    return {"doc_id", "doc", "target"} <= values.keys()


def parse_samples_name(path: Path) -> tuple[str, str]:
    """The task and the date in the name of a samples file."""
    found = SAMPLES_NAME.fullmatch(path.name)
    return (found["task"], found["date"]) if found else (path.stem, "")


def find_samples(folder: Path) -> tuple[list[Path], list[str]]:
    """The samples files in a results folder, the last one of each task; and notes.

    The harness writes into a folder for each model, ``OUTPUT_PATH/MODEL/``.

    Raises:
        UserError: the folder holds those of several models.
    """
    found = sorted(folder.glob("samples_*.jsonl")) or sorted(folder.glob("*/samples_*.jsonl"))
    models = sorted({path.parent for path in found})
    if len(models) > 1:
        names = ", ".join(str(one) for one in models[:5])
        raise UserError(f"{folder}: logs of {len(models)} models; name one of them: {names}")
    by_task: dict[str, list[Path]] = {}
    for path in sorted(found, key=lambda one: parse_samples_name(one)[1]):
        by_task.setdefault(parse_samples_name(path)[0], []).append(path)
    notes = [
        f"{folder}: of {len(paths)} logs of {task} the last one is read, {paths[-1].name}"
        for task, paths in by_task.items()
        if len(paths) > 1
    ]
    return [paths[-1] for paths in by_task.values()], notes


def read_samples(
    files: Sequence[tuple[Path, Sequence[Row]]], options: ReadOptions, notes: Sequence[str] = ()
) -> Run:
    """The samples files of one model, one for each task.

    Raises:
        UserError: a file has no numbers for each question, or not those that are asked for.
    """
    answers: list[ScoredAnswer] = []
    metrics: list[str] = []
    all_notes = list(notes)
    unscored = 0
    for path, rows in files:
        chosen, filter_name = _choose_filter(path, rows, options)
        names = _list_metrics(chosen)
        metric = choose_metric(names, options.metrics, str(path))
        shown = metric if filter_name == "none" else f"{metric}, filter {filter_name}"
        if shown not in metrics:
            metrics.append(shown)
        if others := [name for name in names if name != metric and not options.metrics]:
            all_notes.append(
                f"{path.name}: judged by {metric}; --metric names others: {_list(others)}"
            )
        task = parse_samples_name(path)[0] if len(files) > 1 else ""
        found = [_read_row(row, metric, task, options) for row in chosen]
        answers += [one for one in found if one is not None]
        unscored += found.count(None)
    path = files[0][0] if len(files) == 1 else files[0][0].parent
    return Run(str(path), "lm-eval", "; ".join(metrics), answers, unscored, tuple(all_notes))


def _choose_filter(path: Path, rows: Sequence[Row], options: ReadOptions) -> tuple[list[Row], str]:
    """The rows of one filter, by default of the first."""
    filters = list(dict.fromkeys(str(row.values.get("filter", "none")) for row in rows))
    chosen = options.filter or filters[0]
    if chosen not in filters:
        if options.filter and filters != ["none"]:
            hint = nearest(chosen, filters)
            raise UserError(f"{path}: no filter {chosen!r}{hint}; it has: {', '.join(filters)}")
        chosen = filters[0]
    return [row for row in rows if str(row.values.get("filter", "none")) == chosen], chosen


def _list_metrics(rows: Sequence[Row]) -> list[str]:
    """The metrics with a number for each question; those of a whole corpus have pairs of texts."""
    listed = rows[0].values.get("metrics")
    is_listed = isinstance(listed, list)
    names = listed if isinstance(listed, list) else [*rows[0].values]
    own = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
    return [
        name
        for name in map(str, names)
        if name not in own
        and all(_is_score(row.values.get(name), is_listed) for row in rows)
        and any(row.values.get(name) is not None for row in rows)
    ]


def _is_score(value: Any, is_metric: bool) -> bool:
    """Whether a value is a number; old versions write a metric that NumPy computes as "True"."""
    if is_metric and isinstance(value, str):
        return value in ("True", "False")
    return isinstance(value, bool | int | float | None)


def _read_row(row: Row, metric: str, task: str, options: ReadOptions) -> ScoredAnswer | None:
    values = row.values
    score = read_score(values.get(metric), row.where, metric)
    if score is None:
        return None
    doc = values["doc"] if isinstance(values["doc"], dict) else {}
    response = values.get("filtered_resps")
    while isinstance(response, list) and len(response) == 1:
        response = response[0]
    return ScoredAnswer(
        id=f"{task}/{values['doc_id']}" if task else str(values["doc_id"]),
        score=score,
        question=find_question(doc),
        answer=response if isinstance(response, str) else "",
        expected=str(values["target"]),
        digest=str(values.get("doc_hash") or ""),
        cluster=find_cluster([doc, values], options.cluster),
        where=row.where,
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
