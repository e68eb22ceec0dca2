"""Recorded results of several programs, made by hand in the formats that they document."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapt_jax.evaluation.judging.judge import judge

GOOD = [n % 4 != 0 for n in range(40)]  # 30 of 40
POOR = [n % 4 == 1 or n in (0, 4) for n in range(40)]  # 12 of 40


def compare(*sides: Path | str, **options: Any) -> Any:
    """What judge finds of the first side against the second."""
    return judge([str(side) for side in sides], **options).result.comparisons[0]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def question(number: int) -> str:
    return f"How many apples are {number} and {number + 3} apples?"


def prediction_rows(right: Sequence[bool], **fields: Any) -> list[dict[str, Any]]:
    """Lines of predictions/METHOD.jsonl."""
    return [
        {
            "question": question(n),
            "expected": str(2 * n + 3),
            "correct": one,
            "score": float(one),
            "category": f"c{n // 2}",
            "id": f"test-{n}",
            "answer": str(2 * n + 3) if one else "0",
            "reasoning": "",
            "vote": {"rule": "distinct", "confidence": 1.0, "counts": {}, "abstained": 0},
            "candidates": [],
        }
        | fields
        for n, one in enumerate(right)
    ]


def sample_rows(right: Sequence[bool], filters: Sequence[str] = ("none",)) -> list[dict[str, Any]]:
    """Lines of samples_TASK_DATE.jsonl of lm-evaluation-harness 0.4."""
    rows = []
    for name in filters:
        for n, one in enumerate(right):
            doc = {"question": question(n), "answer": f"#### {2 * n + 3}", "topic": f"c{n // 2}"}
            text = json.dumps(doc, indent=2, ensure_ascii=False)
            rows.append(
                {
                    "doc_id": n,
                    "doc": doc,
                    "target": str(2 * n + 3),
                    "arguments": {"gen_args_0": {"arg_0": f"Question: {question(n)}\nAnswer:"}},
                    "resps": [["18"]],
                    "filtered_resps": ["18"],
                    "filter": name,
                    "metrics": ["exact_match"],
                    "doc_hash": hashlib.sha256(text.encode()).hexdigest(),
                    "prompt_hash": "p",
                    "target_hash": "t",
                    "exact_match": float(one if name != "flexible-extract" else True),
                }
            )
    return rows


def inspect_log(values: Sequence[Any], epochs: int = 1) -> dict[str, Any]:
    """A log of inspect_ai with the same values in each epoch."""
    samples = [
        {
            "id": n + 1,
            "epoch": epoch,
            "input": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": question(n)},
            ],
            "target": str(2 * n + 3),
            "scores": {"match": {"value": value, "answer": "5", "explanation": "5"}},
            "metadata": {"topic": f"c{n // 2}"},
        }
        for epoch in range(1, epochs + 1)
        for n, value in enumerate(values)
    ]
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "apples", "model": "openai/gpt-4o", "created": "2025-05-12T20:28:13"},
        "results": {"total_samples": len(samples), "completed_samples": len(samples)},
        "samples": samples,
    }


def write_inspect(path: Path, log: dict[str, Any]) -> Path:
    """The log as JSON, or as a zip file where the name ends with .eval."""
    if path.suffix != ".eval":
        path.write_text(json.dumps(log))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("_journal/start.json", "{}")
        for sample in log["samples"]:
            name = f"samples/{sample['id']}_epoch_{sample['epoch']}.json"
            packed.writestr(name, json.dumps(sample))
        packed.writestr("summaries.json", "[]")
        packed.writestr("header.json", json.dumps({**log, "samples": None}))
    return path
