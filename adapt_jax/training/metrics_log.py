"""What a training run tells of each step: metrics.jsonl, other places, and a picture at the end."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from adapt_jax.training.trackers import TRACKERS, Tracker
from adapt_jax.utils.errors import UserError

Row = dict[str, Any]
NAME = "metrics.jsonl"


class MetricsLog:
    """One JSON object per step or validation, appended as the run goes; times are under "time".

    Without a folder the rows are only held in memory; of several processes the first one writes.
    """

    def __init__(self, folder: Path | None, step: int = 0, track: Sequence[str] = ()):
        """Goes on after ``step``: rows of later steps, which will be taken again, are removed.

        Args:
            track: names in TRACKERS, for runs with a folder.
        """
        self.rows: list[Row] = []
        self._file = None
        self._trackers: list[Tracker] = []
        if folder is not None:
            path = folder / NAME
            self.rows = [row for row in read_rows(path) if row["step"] <= step]
        if folder is not None and jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            whole = path.with_name(f".{NAME}.new")
            whole.write_text("".join(_line(row) for row in self.rows), encoding="utf-8")
            os.replace(whole, path)
            self._file = path.open("a", encoding="utf-8")
            self._trackers = [TRACKERS[name](folder, self.rows) for name in track]

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: Any) -> None:
        for tracker in self._trackers:
            tracker.close()
        if self._file is not None:
            with suppress(OSError):  # what could not be written was told
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
        """Adds a row.

        Raises:
            UserError: it could not be written, such as on a full disk.
        """
        self.rows.append(row)
        if self._file is not None:
            try:
                self._file.write(_line(row))
                self._file.flush()
            except OSError as problem:  # a full disk; the checkpoints before stay
                raise UserError(f"{self._file.name}: {problem.strerror}") from None
        for tracker in self._trackers:
            tracker.write(row)

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


def draw(rows: Sequence[Row], path: Path) -> None:
    """The loss of every step, smoothed over a fiftieth of the run, and of the validations."""
    from matplotlib.figure import Figure  # drawn without pyplot: needs no display, keeps no state

    steps = [row for row in rows if "loss" in row]
    checked = [row for row in rows if "development_loss" in row]
    if not steps:
        return
    at, loss = [row["step"] for row in steps], [row["loss"] for row in steps]
    weight, smooth = 1 / max(1, len(loss) / 50), [loss[0]]
    for value in loss[1:]:
        smooth.append(smooth[-1] + weight * (value - smooth[-1]))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(at, loss, color="#3b76a8", alpha=0.3, linewidth=0.8)
    axes.plot(at, smooth, color="#3b76a8", label="training")
    if checked:
        places = [row["step"] for row in checked]
        values = [row["development_loss"] for row in checked]
        axes.plot(places, values, "o-", color="#d1793b", label="development")
        best = checked[-1]["best_step"]
        axes.axvline(best, color="#888", linestyle=":", label=f"best step, {best}")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per target token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#ddd", linewidth=0.6)
    axes.legend(frameon=False)
    whole = path.with_name(f".new.{path.name}")
    figure.savefig(whole, dpi=130)
    os.replace(whole, path)
