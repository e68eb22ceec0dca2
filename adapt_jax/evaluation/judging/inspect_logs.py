"""Scores out of logs of inspect_ai: JSON, or ``.eval``, a zip file of JSON.

The fields are those of ``EvalLog`` and ``EvalSample`` (inspect_ai/log/_log.py); scores are
``Score`` (inspect_ai/scorer/_metric.py), whose value is a letter, a number, or several by name.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt_jax.evaluation.judging.scored import (
    ReadOptions,
    Run,
    ScoredAnswer,
    choose_metric,
    find_cluster,
    read_score,
)
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import parse_json

__all__ = ["NON_FINITE", "is_inspect_log", "read_inspect_log", "read_inspect_zip"]

NON_FINITE = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
MAX_SAMPLE_BYTES = 256 * 2**20  # of one sample's JSON in a zip file
MAX_LOG_BYTES = 8 * 2**30  # of all of them
# an id may hold slashes
SAMPLE_NAME = re.compile(r"samples/(?:[^/]+\.json|.+_epoch_\d+\.json|.+/sample\.json)", re.DOTALL)
ATTACHMENT = "attachment://"  # begins what stands for a long text


def is_inspect_log(content: Any) -> bool:
    """Whether a JSON value is a log of inspect_ai."""
    return isinstance(content, dict) and {"eval", "status"} <= content.keys()


def read_inspect_zip(path: Path, options: ReadOptions) -> Run:
    """A log that ends with ``.eval``.

    Raises:
        UserError: it is damaged, too large, or compressed in a way that Python cannot read.
    """
    try:
        with zipfile.ZipFile(path) as log:
            # a sample that was written again has two entries, of which the last one counts
            sizes = {one.filename: one.file_size for one in log.infolist()}
            names = [one for one in sizes if SAMPLE_NAME.fullmatch(one)]
            if sum(sizes[one] for one in names) > MAX_LOG_BYTES:
                raise UserError(f"{path}: more than {MAX_LOG_BYTES >> 30} GiB of samples")
            parts = ["start.json", "results.json"]  # of versions of 2024
            if "header.json" in sizes or not all(one in sizes for one in parts):
                parts = ["header.json"]
            header = {k: v for one in parts for k, v in _read_member(path, log, one).items()}
            samples = [_read_member(path, log, one) for one in names]
    except NotImplementedError:  # how zipfile reports a compression that it does not know
        raise UserError(
            f"{path}: compressed in a way that Python's zipfile cannot read; convert it by "
            "`inspect log convert --to json`"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as problem:
        raise UserError(f"{path}: not a readable log of inspect_ai ({problem})") from None
    return read_inspect_log(path, {**header, "samples": samples}, options)


def _read_member(path: Path, log: zipfile.ZipFile, name: str) -> Any:
    where = f"{path}, {name}"
    if name not in log.namelist():
        raise UserError(f"{where}: is missing; the evaluation has not ended")
    if log.getinfo(name).file_size > MAX_SAMPLE_BYTES:
        raise UserError(f"{where}: more than {MAX_SAMPLE_BYTES >> 20} MiB")
    try:
        text = log.read(name).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None
    content = parse_json(text, where, constants=NON_FINITE)
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected an object")
    return content


def read_inspect_log(path: Path, content: Mapping[str, Any], options: ReadOptions) -> Run:
    """A log as parsed JSON; several epochs are several answers to a question.

    Raises:
        UserError: it has no samples, or they have no scores.
    """
    samples = content.get("samples")
    if not isinstance(samples, list) or not samples:
        raise UserError(f"{path}: a log without samples (inspect_ai writes them by default)")
    placed = [
        (f"{path}, sample {number}", sample) for number, sample in enumerate(samples, start=1)
    ]
    for where, sample in placed:
        if not isinstance(sample, dict) or "id" not in sample:
            raise UserError(f"{where}: expected an object with an id")
    names = dict.fromkeys(name for _, sample in placed for name in _list_scores(sample))
    metric = choose_metric(list(names), options.metrics, str(path))
    notes = []
    if content.get("status") not in ("success", None):
        notes.append(f"{path}: the status of this log is {content['status']!r:.40}")
    if len(names) > 1 and not options.metrics:
        others = ", ".join(name for name in names if name != metric)
        notes.append(f"{path}: judged by {metric}; --metric names others: {others}")
    found = [_read_sample(where, sample, metric, options) for where, sample in placed]
    answers = [one for one in found if one is not None]
    return Run(str(path), "inspect_ai", metric, answers, found.count(None), tuple(notes))


def _list_scores(sample: Mapping[str, Any]) -> list[str]:
    """The names of a sample's scores; a score of several values gives NAME.KEY of each."""
    names = []
    for name, score in _find_scores(sample).items():
        value = score.get("value") if isinstance(score, dict) else None
        names += [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
    return names


def _find_scores(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores by name; the first versions wrote one without a name."""
    scores = sample.get("scores")
    if isinstance(scores, dict):
        return scores
    return {"score": sample["score"]} if isinstance(sample.get("score"), dict) else {}


def _read_sample(
    where: str, sample: Mapping[str, Any], metric: str, options: ReadOptions
) -> ScoredAnswer | None:
    """The sample's answer; None where it has no score, as after an error."""
    for name, score in _find_scores(sample).items():
        if not isinstance(score, dict):
            continue
        value = score.get("value")
        if isinstance(value, dict) and metric.startswith(f"{name}."):
            value = value.get(metric.removeprefix(f"{name}."))
        elif name != metric:
            continue
        if (number := read_score(value, where, metric)) is None:
            return None
        metadata = sample.get("metadata") or {}
        return ScoredAnswer(
            id=str(sample["id"]),
            score=number,
            question=_resolve(_find_input(sample.get("input")), sample),
            answer=str(score.get("answer") or ""),
            expected=_join(sample.get("target")),
            cluster=find_cluster([metadata, sample], options.cluster),
            repeat=str(sample.get("epoch", "")),
            where=where,
        )
    return None


def _resolve(text: str, sample: Mapping[str, Any]) -> str:
    """The text; of an attachment that of the sample's attachments."""
    attachments = sample.get("attachments")
    if text.startswith(ATTACHMENT) and isinstance(attachments, dict):
        return str(attachments.get(text.removeprefix(ATTACHMENT), text))
    return text


def _find_input(value: Any) -> str:
    """The text of a sample's input; of messages the last one of the user."""
    if isinstance(value, str):
        return value
    messages = [one for one in value or [] if isinstance(one, dict) and one.get("role") == "user"]
    if not messages:
        return ""
    content = messages[-1].get("content")
    if isinstance(content, list):
        parts = [one.get("text") for one in content if isinstance(one, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _join(target: Any) -> str:
    return (
        " / ".join(map(str, target))
        if isinstance(target, Sequence) and not isinstance(target, str)
        else str(target or "")
    )
