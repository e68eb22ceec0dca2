"""Scores out of tables: this project's predictions, and any CSV or JSONL of verdicts."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt_jax.evaluation.judging.scored import (
    QUESTION_FIELDS,
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

__all__ = ["is_predictions", "read_predictions", "read_table"]

ID_COLUMNS = ("id", "question_id", "example_id", "sample_id", "doc_id", "qid", "idx", "index")
SCORE_COLUMNS = (
    *("correct", "is_correct", "verdict", "score", "exact_match", "acc", "accuracy", "passed"),
    *("f1", "acc_norm", "em", "rougeL", "rouge1", "bleu", "chrf"),
)
REPEAT_COLUMNS = ("epoch", "seed", "run", "repeat", "trial")
ANSWER_COLUMNS = ("answer", "prediction", "predicted", "response", "output")
# pandas writes the whole numbers of a column that lacks some as floats
_WHOLE_FLOAT = re.compile(r"(?<=[0-9])\.0\Z")
EXPECTED_COLUMNS = ("expected", "target", "gold", "reference", "label")


def is_predictions(values: Mapping[str, Any]) -> bool:
    """Whether a row is one of the predictions that this project writes."""
    return {"id", "answer", "vote", "candidates"} <= values.keys()


def read_predictions(path: Path, rows: Sequence[Row], options: ReadOptions) -> Run:
    """The predictions of a rung or an evaluation.

    The metric is ``score`` where the scorer gives more than 0 and 1, else ``correct``.

    Raises:
        UserError: a row has no verdict, as after ``predict``.
    """
    if unjudged := [row for row in rows if "correct" not in row.values]:
        raise UserError(
            f"{unjudged[0].where}: no verdict `correct`; predict writes answers only, evaluate "
            "judges them"
        )
    is_graded = any(row.values.get("score") not in (0, 1, None) for row in rows)
    names = ["score", "correct"] if is_graded else ["correct", "score"]
    metric = choose_metric(names, options.metrics, str(path))
    found = [
        _read_answer(row, read_score(row.values.get(metric), row.where, metric), "id", options)
        for row in rows
    ]
    return _make_run(path, "predictions of adapt_jax", metric, found)


def read_table(path: Path, rows: Sequence[Row], options: ReadOptions) -> Run:
    """A table with a row for each question: an id or a question, and a score.

    Raises:
        UserError: the columns are not there, or a value is no score.
    """
    columns = list(rows[0].values)
    id_column = options.id_field or _find_column(columns, ID_COLUMNS)
    if options.id_field and options.id_field not in columns:
        raise UserError(
            f"{path}: no column {options.id_field!r}{nearest(options.id_field, columns)}"
        )
    if id_column is None and _find_column(columns, QUESTION_FIELDS) is None:
        raise UserError(
            f"{path}: no column of ids (id, question_id, ...) or questions (question, input, ...), "
            f"by which questions are paired; --id names one of: {', '.join(columns):.150}"
        )
    lowered = {name.lower(): name for name in reversed(columns)}
    known = [lowered[name.lower()] for name in SCORE_COLUMNS if name.lower() in lowered]
    if not known and not options.metrics:
        raise UserError(
            f"{path}: no column of scores (correct, score, ...); --metric names one of: "
            f"{', '.join(columns):.150}"
        )
    metric = choose_metric(columns if options.metrics else known, options.metrics, str(path))
    found = [
        _read_answer(row, read_score(row.values.get(metric), row.where, metric), id_column, options)
        for row in rows
    ]
    return _make_run(path, "table", metric, found)


def _find_column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    lowered = {name.lower(): name for name in reversed(columns)}
    return next((lowered[name] for name in known if name in lowered), None)


def _read_answer(
    row: Row, score: float | None, id_column: str | None, options: ReadOptions
) -> ScoredAnswer | None:
    """The row's answer; None where it has no score."""
    values = row.values
    if score is None:
        return None
    if id_column and values.get(id_column) in (None, ""):
        raise UserError(f"{row.where}: {id_column} is empty")

    def text(columns: Sequence[str]) -> str:
        name = _find_column(list(values), columns)
        value = values[name] if name else None
        return "" if value is None or isinstance(value, dict | list) else str(value)

    return ScoredAnswer(
        id=_WHOLE_FLOAT.sub("", str(values[id_column])) if id_column else "",
        score=score,
        question=find_question(values),
        answer=text(ANSWER_COLUMNS),
        expected=text(EXPECTED_COLUMNS),
        cluster=find_cluster([values], options.cluster),
        repeat=text(REPEAT_COLUMNS),
        where=row.where,
    )


def _make_run(path: Path, kind: str, metric: str, found: Sequence[ScoredAnswer | None]) -> Run:
    answers = [one for one in found if one is not None]
    return Run(str(path), kind, metric, answers, unscored=len(found) - len(answers))
