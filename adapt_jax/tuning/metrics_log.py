"""What a training run tells of each step: metrics.jsonl, other places, and a picture at the end."""

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NAME = "metrics.jsonl"


class MetricsLog:
    """One JSON object per step or validation, appended as the run goes; times are under "time".

    Without a folder the rows are only held in memory.
    """

    def __init__(self, folder: Path | None, step: int = 0):
        """Goes on after ``step``: rows of later steps, which will be taken again, are removed."""
        self.rows: list[Row] = []
        self._file = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / NAME
            self.rows = [row for row in read_rows(path) if row["step"] <= step]
            whole = path.with_name(f".{NAME}.new")
            whole.write_text("".join(_line(row) for row in self.rows), encoding="utf-8")
            os.replace(whole, path)
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def steps(self) -> list[Row]:
        """The rows of training steps; those of validations stand between them."""
        return [row for row in self.rows if "loss" in row]

    @property
    def losses(self) -> list[float]:
        """The loss of every step."""
        return [row["loss"] for row in self.steps]

    def write(self, row: Row) -> None:
        """Adds a row."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(_line(row))
            self._file.flush()

    def sync(self) -> None:
        """Returns when all rows are on the disk: a checkpoint never is ahead of its log."""
        if self._file is not None:
            os.fsync(self._file.fileno())


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that was cut off ends them."""
    rows: list[Row] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows.append({"step": int(row["step"]), **row})
            except (ValueError, KeyError, TypeError):
                break
    return rows


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
