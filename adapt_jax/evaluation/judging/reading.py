"""Finds out what a recorded result is, and reads it.

A side of a comparison is a path, a glob pattern, or paths joined by commas: several files of one
side are several runs of it, such as seeds.
"""

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt_jax.evaluation.judging.inspect_logs import (
    NON_FINITE,
    is_inspect_log,
    read_inspect_log,
    read_inspect_zip,
)
from adapt_jax.evaluation.judging.lm_eval_samples import find_samples, is_samples, read_samples
from adapt_jax.evaluation.judging.scored import ReadOptions, Run
from adapt_jax.evaluation.judging.tables import is_predictions, read_predictions, read_table
from adapt_jax.evaluation.report.files import read_comparison
from adapt_jax.evaluation.results import DoneRung
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.text_files import check_is_file, read_json

__all__ = ["expand_comparison", "read_runs"]

COMPARISON, EVALUATION, PREDICTIONS = "comparison.json", "evaluation.json", "predictions.jsonl"


def read_runs(side: str, options: ReadOptions) -> list[Run]:
    """The runs of one side.

    Raises:
        UserError: there is no such file, or it is nothing that is known.
    """
    runs = [run for path in _find_paths(side) for run in _read_runs(path, options)]
    for run in runs:
        if not run.answers:
            raise UserError(f"{run.path}: holds no scored answer")
    return runs


def expand_comparison(path: str) -> list[str] | None:
    """All rungs of a comparison folder as sides, the recommended one first.

    None where it is no such folder.
    """
    folder = Path(path)
    if not (folder / COMPARISON).is_file():
        return None
    comparison = read_comparison(folder / COMPARISON)
    rungs = [one for one in comparison.rungs if isinstance(one, DoneRung)]
    rungs.sort(key=lambda rung: rung.method != comparison.best)
    # the folder of an adaptation stands for all seeds of its rung
    return [
        str(folder / "adaptations" / one.method if one.runs else _predictions(folder, one.method))
        for one in rungs
    ]


def _predictions(folder: Path, method: str) -> Path:
    return folder / "predictions" / f"{method}.jsonl"


def _find_paths(side: str) -> list[Path]:
    """The files and folders of a side."""
    if Path(side).exists():
        return [Path(side)]
    found: list[Path] = []
    for part in side.split(","):
        matches = [part] if Path(part).exists() else sorted(glob.glob(part, recursive=True))
        if not matches:
            parent = Path(part).parent
            names = [one.name for one in parent.iterdir()] if parent.is_dir() else []
            raise UserError(f"{part}: no such file or folder{nearest(Path(part).name, names)}")
        found += map(Path, matches)
    return found


def _read_runs(path: Path, options: ReadOptions) -> list[Run]:
    """The runs of one file or folder: of a rung of several seeds, one for each."""
    if path.name == COMPARISON:
        path = path.parent
    found = _find_rung(path)
    if found is None:
        return [_read_path(path, options)]
    folder, method, note = found
    rung = next(one for one in read_comparison(folder / COMPARISON).rungs if one.method == method)
    places = [run.folder for run in (isinstance(rung, DoneRung) and rung.runs) or ()] or ["."]
    runs = [_read_path(_predictions(folder / one, method), options) for one in places]
    return [replace(run, notes=(*note, *run.notes)) for run in runs]


def _find_rung(path: Path) -> tuple[Path, str, tuple[str, ...]] | None:
    """The comparison folder, the rung that a path in it means, and what the reader should know."""
    if (path / COMPARISON).is_file():
        result = read_comparison(path / COMPARISON)
        best, recommendation = result.best, result.recommendation
        if best is None:
            raise UserError(f"{path}: every rung of this comparison was skipped")
        none_is = recommendation is not None and not recommendation.is_enough
        note = f"{path}: its recommended rung, {best}" + ", though none is enough" * none_is
        return path, best, (note,)
    folder = path.parent.parent
    if path.parent.name != "adaptations" or not (folder / COMPARISON).is_file():
        return None
    known = [one.method for one in read_comparison(folder / COMPARISON).rungs]
    return (folder, path.name, ()) if path.name in known else None


def _read_path(path: Path, options: ReadOptions) -> Run:
    if path.is_dir():
        return _read_folder(path, options)
    check_is_file(path)
    if path.suffix == ".eval":
        return read_inspect_zip(path, options)
    if path.suffix == ".json":
        return _read_json_file(path, options)
    return _read_rows(path, read_rows(path), options)


def _read_rows(path: Path, rows: Sequence[Row], options: ReadOptions) -> Run:
    """Rows of any of the known kinds."""
    if not rows:
        raise UserError(f"{path}: holds no rows")
    values = rows[0].values
    if is_samples(values):
        for row in rows:
            if not is_samples(row.values):
                raise UserError(f"{row.where}: expected doc_id, doc and target, as lm-eval writes")
        return read_samples([(path, rows)], options)
    if is_predictions(values):
        return read_predictions(path, rows, options)
    return read_table(path, rows, options)


def _read_json_file(path: Path, options: ReadOptions) -> Run:
    """A log of inspect_ai, a summary beside which its samples lie, or rows."""
    content: Any = read_json(path, constants=NON_FINITE)
    if is_inspect_log(content):
        return read_inspect_log(path, content, options)
    if path.name == EVALUATION:
        return _read_folder(path.parent, options)
    if isinstance(content, dict) and {"results", "configs"} <= content.keys():  # of lm-eval
        if isinstance(content.get("samples"), dict) and content["samples"]:
            return read_samples(_list_samples(path, content["samples"]), options)
        date = path.stem.partition("_")[2]
        beside = sorted(path.parent.glob(f"samples_*_{date}.jsonl")) if date else []
        if not beside:
            raise UserError(
                f"{path}: a summary of lm-eval, and its samples are not beside it; run lm-eval "
                "with --log_samples"
            )
        return read_samples([(one, read_rows(one)) for one in beside], options)
    return _read_rows(path, read_rows(path), options)


def _list_samples(path: Path, samples: dict[str, Any]) -> list[tuple[Path, list[Row]]]:
    """The samples of each task in what ``lm_eval.simple_evaluate`` returns.

    Raises:
        UserError: they are not in the form of the harness.
    """
    found = []
    for task, values in samples.items():
        where = f"{path}, samples.{task}"
        rows = []
        for number, one in enumerate(values if isinstance(values, list) else [], start=1):
            if not isinstance(one, dict) or not is_samples(one):
                raise UserError(f"{where}, {number}: expected doc_id, doc and target")
            rows.append(Row(f"{where}, {number}", number, one))
        if not rows:
            raise UserError(f"{where}: expected a list of samples")
        found.append((path / f"{task}.jsonl", rows))
    return found


def _read_folder(folder: Path, options: ReadOptions) -> Run:
    """The one result that a folder holds."""
    if (folder / EVALUATION).is_file() or (folder / PREDICTIONS).is_file():
        return _read_path(folder / PREDICTIONS, options)
    if folder.parent.name == "adaptations":
        rung = _predictions(folder.parent.parent, folder.name)
        if rung.is_file():
            return _read_path(rung, options)
    samples, notes = find_samples(folder)
    if samples:
        return read_samples([(one, read_rows(one)) for one in samples], options, notes)
    logs = sorted(folder.glob("*.eval")) or sorted(folder.glob("*.json"))
    if len(logs) == 1:
        return _read_path(logs[0], options)
    if logs:
        names = ", ".join(one.name for one in logs[:4])
        raise UserError(
            f"{folder}: {len(logs)} logs; name one, or several runs by a pattern such as "
            f"'{folder}/*{logs[0].suffix}': {names}"
        )
    raise UserError(
        f"{folder}: no results; expected the output folder of compare or evaluate, or logs of "
        "lm-eval or inspect_ai"
    )
