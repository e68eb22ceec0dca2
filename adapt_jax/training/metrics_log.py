"""The log of a training run: metrics.jsonl, trackers, and a picture at the end."""

import json
import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from adapt_jax.training.trackers import TRACKERS, Tracker
from adapt_jax.utils.distributed import from_main, is_main_process
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_file, write_text
from adapt_jax.utils.line_appender import LineAppender
from adapt_jax.utils.text_files import parse_json

__all__ = ["MetricsLog", "Row", "plot_losses", "read_rows"]

log = logging.getLogger("adapt_jax")

Row = dict[str, Any]
FILE_NAME = "metrics.jsonl"
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
SMOOTHED_SHARE = 1 / 50  # of a run, over which the drawn loss is smoothed


class MetricsLog:
    """One JSON object per step or validation, appended as the run goes; times are under "time".

    Without a folder the rows are only held in memory; of several processes the first one writes. To
    be used in a ``with`` statement.

    Attributes:
        rows: of steps and validations.
        steps: the rows of training steps among them.
    """

    def __init__(self, folder: Path | None, step: int = 0, trackers: Sequence[str] = ()):
        """Continues after ``step``: rows of later steps, which will be taken again, are removed.

        Args:
            trackers: names in TRACKERS, for runs with a folder.

        Raises:
            UserError: the log cannot be written, or a tracker is not installed.
        """
        self.has_folder = folder is not None
        self.rows: list[Row] = []
        self.steps: list[Row] = []
        self._file: LineAppender | None = None
        self._trackers: list[Tracker] = []
        self._stack = ExitStack()
        if folder is None:
            return
        path = folder / FILE_NAME
        rows = read_rows(path) if is_main_process() else []
        self.rows = [row for row in from_main("metrics", rows) if row["step"] <= step]
        self.steps = [row for row in self.rows if "loss" in row]
        if is_main_process():
            if len(self.steps) < step:
                log.warning(
                    "%s: %d of the %d steps before the checkpoint have no row; losses, times and "
                    "padding are those of the others", path, step - len(self.steps), step,
                )  # fmt: skip
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
            with ExitStack() as stack:
                self._file = stack.enter_context(LineAppender(path))
                for name in trackers:
                    tracker = TRACKERS[name](folder, self.rows)
                    stack.callback(tracker.close)
                    self._trackers.append(tracker)
                self._stack = stack.pop_all()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    @property
    def losses(self) -> list[float]:
        """The loss of every step, in nats per target token."""
        return [row["loss"] for row in self.steps]

    def write(self, row: Row) -> None:
        """Adds a row.

        Raises:
            UserError: it could not be written, such as on a full disk.
        """
        if self._file is not None:
            self._file.write(json.dumps(row))
        self.rows.append(row)
        if "loss" in row:
            self.steps.append(row)
        for tracker in self._trackers:
            tracker.write(row)

    def sync(self) -> None:
        """Returns when all rows are on the disk: a checkpoint is never ahead of its log."""
        if self._file is not None:
            self._file.sync()


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; they end where a line is damaged, such as one that was cut."""
    rows: list[Row] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = parse_json(line, str(path), constants=NOT_FINITE)
                rows.append({**row, "step": int(row["step"])})
            except (UserError, ValueError, KeyError, TypeError):
                break
    return rows


def plot_losses(rows: Sequence[Row], path: Path) -> None:
    """Draws the loss of every step, raw and smoothed, and that of the validations, as PNG."""
    from matplotlib.figure import Figure  # drawn without pyplot: needs no display, keeps no state

    steps = [row for row in rows if "loss" in row]
    validations = [row for row in rows if "development_loss" in row]
    if not steps:
        return
    at, losses = [row["step"] for row in steps], [row["loss"] for row in steps]
    weight, smooth = min(1, 1 / (len(losses) * SMOOTHED_SHARE)), [losses[0]]
    for loss in losses[1:]:
        smooth.append(smooth[-1] + weight * (loss - smooth[-1]))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(at, losses, color="#3b76a8", alpha=0.3, linewidth=0.8)
    axes.plot(at, smooth, color="#3b76a8", label="training")
    if validations:
        places = [row["step"] for row in validations]
        values = [row["development_loss"] for row in validations]
        axes.plot(places, values, "o-", color="#d1793b", label="development")
        best = validations[-1]["best_step"]
        axes.axvline(best, color="#888", linestyle=":", label=f"best step, {best}")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per target token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#ddd", linewidth=0.6)
    axes.legend(frameon=False)
    replace_file(path, lambda new: figure.savefig(new, dpi=130))
