"""Results as files: predictions.jsonl, evaluation.json and comparison.json."""

from pathlib import Path

from adapt_jax.evaluation.baseline import measure_commonest_label
from adapt_jax.evaluation.evaluate import Evaluation
from adapt_jax.evaluation.results import FORMAT, ComparisonResult, EvaluationFile
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import to_json_lines, write_json, write_text
from adapt_jax.utils.text_files import read_json

__all__ = ["read_comparison", "write_evaluation", "write_predictions"]


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """One line per question: its candidates, answer and vote, and whether it is right."""
    rows = (
        {
            "question": row.example.question,
            "expected": row.example.answer,
            "correct": row.correct,
            "score": row.score,
        }
        | row.prediction.to_dict()
        for row in evaluation.predictions
    )
    write_text(path, to_json_lines(rows))


def write_evaluation(
    folder: Path, evaluation: Evaluation, task: Task, *, method: str, seed: int
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


def read_comparison(path: Path) -> ComparisonResult:
    """Reads a comparison.json.

    Raises:
        UserError: there is none, or it is damaged or of another version.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a comparison of format {FORMAT}; run adapt-jax compare again")
    return validate(ComparisonResult, content, str(path))
