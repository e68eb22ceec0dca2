"""Results as files: predictions.jsonl, evaluation.json and comparison.json."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.evaluation.baseline import measure_commonest_label
from adapt_jax.evaluation.results import FORMAT, ComparisonResult, DoneRung, EvaluationFile
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import to_json_lines, write_json, write_text
from adapt_jax.utils.text_files import read_json

if TYPE_CHECKING:
    from adapt_jax.evaluation.evaluate import Evaluation  # which imports the engine

__all__ = [
    "read_comparison",
    "read_whole_rungs",
    "write_comparison",
    "write_evaluation",
    "write_predictions",
]


def write_predictions(path: Path, evaluation: "Evaluation") -> None:
    """One line per question: its candidates, answer and vote, and whether it is right."""
    rows = (
        {
            "question": row.example.question,
            "expected": row.example.answer,
            "correct": row.correct,
            "score": row.score,
            "category": row.example.category,
        }
        | row.prediction.to_dict()
        for row in evaluation.predictions
    )
    write_text(path, to_json_lines(rows))


def write_evaluation(
    folder: Path, evaluation: "Evaluation", task: Task, *, method: str, seed: int
) -> None:
    """Writes ``evaluation.json`` and ``predictions.jsonl`` into the folder."""
    content = EvaluationFile(
        **evaluation.result.model_dump(),
        task=task.name,
        method=method,
        seed=seed,
        baseline=measure_commonest_label(task),
    )
    write_predictions(folder / "predictions.jsonl", evaluation)
    write_json(folder / "evaluation.json", content.model_dump(mode="json"))


def write_comparison(path: Path, result: ComparisonResult) -> None:
    """Writes a comparison.json: each rung, and the whole, with a checksum."""
    plain = json.loads(to_json_lines([result.model_dump(mode="json")]))
    for rung in plain["rungs"]:
        rung["crc32"] = _compute_checksum(rung)
    plain["crc32"] = _compute_checksum(plain)
    write_json(path, plain)


def read_comparison(path: Path) -> ComparisonResult:
    """Reads a comparison.json.

    Raises:
        UserError: there is none, it is damaged or of another version, or a value of it is not the
            one that was written.
    """
    content = _read_content(path)
    result = validate(ComparisonResult, content, str(path))
    if content.get("crc32") != _compute_checksum(content):
        raise UserError(
            f"{path}: has changed since it was written, so its numbers cannot be trusted; "
            "run adapt-jax compare again"
        )
    rungs = [rung.model_copy(update={"crc32": None}) for rung in result.rungs]
    return result.model_copy(update={"crc32": None, "rungs": rungs})


def read_whole_rungs(path: Path) -> tuple[list[DoneRung], list[str]]:
    """The measured rungs of a comparison.json as they were written, and the names of the others.

    Raises:
        UserError: there is no comparison, or it is damaged so that no rung can be found.
    """
    rungs = _read_content(path).get("rungs")
    whole, changed = list[DoneRung](), list[str]()
    for rung in rungs if isinstance(rungs, list) else ():
        if not isinstance(rung, dict) or rung.get("status") == "skipped":
            continue
        try:
            if rung.get("crc32") != _compute_checksum(rung):
                raise ValueError
            whole.append(DoneRung.model_validate(rung | {"crc32": None}))
        except ValueError:  # pydantic's is one, too
            changed.append(str(rung.get("method")))
    return whole, changed


def _read_content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a comparison of format {FORMAT}; run adapt-jax compare again")
    return content


def _compute_checksum(content: Mapping[str, Any]) -> int:
    """The CRC-32 of an object's other fields, as JSON with sorted keys and without spaces."""
    others = {key: value for key, value in content.items() if key != "crc32"}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return zlib.crc32(text.encode("ascii"))
