"""Where a run's metrics go beside metrics.jsonl; a new place is a class and a line in TRACKERS."""

import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from adapt_jax.utils.errors import UserError


class Tracker(Protocol):
    """Takes rows of metrics as they come."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Shows a row."""

    def close(self) -> None:
        """All rows are shown."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row without its step; times beside the others: "time/seconds"."""
    times = {f"time/{key}": value for key, value in row.get("time", {}).items()}
    found = {key: value for key, value in row.items() if key not in ("step", "time")} | times
    return {key: float(value) for key, value in found.items() if value is not None}


class TensorBoard:
    """Event files in ``folder / "tensorboard"``, written anew from the log when a run goes on."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]):
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise _missing("tensorboard") from None
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds the row's numbers as scalars."""
        values = [
            self._summary.Value(tag=tag, simple_value=value) for tag, value in numbers(row).items()
        ]
        summary = self._summary(value=values)
        event = self._event(step=row["step"], wall_time=time.time(), summary=summary)
        self._writer.add_event(event)

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one when it goes on; WANDB_MODE=offline keeps it here."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]):
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        name = f"{zlib.crc32(str(folder.absolute()).encode()):08x}"
        self._run = wandb.init(project="adapt_jax", dir=str(folder), id=name, resume="allow")

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs the row's numbers."""
        self._run.log(numbers(row), step=row["step"])

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def _missing(extra: str) -> UserError:
    return UserError(
        f"training.trackers: {extra} is not installed; `pip install adapt-jax[{extra}]` brings it"
    )
