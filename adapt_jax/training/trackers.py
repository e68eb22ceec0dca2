"""Where a run's metrics go besides metrics.jsonl.

A new tracker is a class that is registered in TRACKERS:

    @TRACKERS.register("my_tracker")
    class MyTracker:
        def __init__(self, folder, rows): ...
        def write(self, row): ...
        def close(self): ...
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.registry import Registry

__all__ = ["TRACKERS", "TensorBoard", "Tracker", "WeightsAndBiases", "to_numbers"]


class Tracker(Protocol):
    """Takes rows of metrics as they come."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Shows a row."""

    def close(self) -> None:
        """All rows are shown."""


# A tracker is made from the run's folder and the rows that an earlier run has written.
TRACKERS: Registry[Callable[[Path, Sequence[Mapping[str, Any]]], Tracker]] = Registry("tracker")


def to_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row without its step; those under "time" as "time/seconds" and so on."""
    times = {f"time/{key}": value for key, value in row.get("time", {}).items()}
    found = {key: value for key, value in row.items() if key not in ("step", "time")} | times
    return {key: float(value) for key, value in found.items() if value is not None}


@TRACKERS.register("tensorboard")
class TensorBoard:
    """Event files in ``folder / "tensorboard"``, rewritten from the log when a run continues."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]):
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise _explain_missing("tensorboard") from None
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds the row's numbers as scalars."""
        values = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in to_numbers(row).items()
        ]
        summary = self._summary(value=values)
        event = self._event(step=row["step"], wall_time=time.time(), summary=summary)
        self._writer.add_event(event)

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.close()


@TRACKERS.register("wandb")
class WeightsAndBiases:
    """A run of Weights & Biases, the same one when a training continues.

    WANDB_MODE=offline keeps it on this machine.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]):
        try:
            import wandb
        except ImportError:
            raise _explain_missing("wandb") from None
        name = identity(str(folder.absolute()))
        self._run = wandb.init(project="adapt_jax", dir=str(folder), id=name, resume="allow")

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs the row's numbers."""
        self._run.log(to_numbers(row), step=row["step"])

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def _explain_missing(extra: str) -> UserError:
    return UserError(
        f"training.trackers: {extra} is not installed; `pip install adapt-jax[{extra}]` brings it"
    )
