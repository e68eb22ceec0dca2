"""The report of each step of a run: a row of the log, a note for the display, and problems.

The metrics of a step are fetched only after the next one has begun, so that the device works while
the host packs and writes.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adapt_jax.training.metrics_log import MetricsLog, Row
from adapt_jax.training.packing import Batch
from adapt_jax.training.run import TrainingRun
from adapt_jax.training.throughput import peak_flops
from adapt_jax.utils.compilations import compile_seconds
from adapt_jax.utils.errors import UserError

__all__ = ["OnStep", "StepReporter"]

OnStep = Callable[[int, int, str], None]  # step (from 1), of how many, a note
METRICS = ("loss", "accuracy", "gradient_norm")  # of the device, in the order of the log
MAX_DIVERGING_STEPS = 10  # in a row
RECENT_STEPS = 20  # that the shown pace is taken from
MAX_NAMED = 8  # examples of a bad batch


class StepReporter:
    """Writes the rows of a run's log, one for each step and validation."""

    def __init__(self, run: TrainingRun, log: MetricsLog, on_step: OnStep | None):
        self._run, self._log, self._on_step = run, log, on_step
        self._peak = peak_flops() if log.has_folder or on_step is not None else 0.0
        self._pending: Row = {}  # of the last step, its metrics still on the device
        self._compiled_shapes: set[tuple[int, ...]] = set()
        self.restart_clock()

    def restart_clock(self) -> None:
        """The next step's time begins now."""
        self._began, self._compiled = time.perf_counter(), compile_seconds()

    def announce_compilation(self, batch: Batch) -> None:
        """Says so where a step will be compiled: each shape of batches has a program of its own."""
        shape = (*np.shape(batch.tokens), *np.shape(batch.target_id))
        if shape not in self._compiled_shapes:
            self._compiled_shapes.add(shape)
            self.report(self._run.steps_done, "compiling the training step")

    def report(self, step: int, note: str) -> None:
        """Tells the caller how far the run has come."""
        if self._on_step is not None:
            self._on_step(step, self._run.config.steps, note)

    def add_step(self, step: int, metrics: dict[str, Any], batch: Batch) -> None:
        """Takes the metrics of a step that may still be running."""
        tokens = int(np.count_nonzero(batch.segments))
        self._pending = {
            "step": step,
            **{name: metrics[name] for name in METRICS},
            "tokens": tokens,
            "targets": int(np.count_nonzero(batch.target_weight)),
            "padding": round(1 - tokens / np.size(batch.segments), 6),
        }

    def flush_metrics(self) -> None:
        """Waits for the step that was added last, and writes its row.

        Raises:
            UserError: its loss or gradient is not finite, or the run diverges.
        """
        if not self._pending:
            return
        row = self._pending | {name: float(self._pending[name]) for name in METRICS}
        self._pending = {}
        self._check(row)
        seconds = time.perf_counter() - self._began
        compiling = min(compile_seconds() - self._compiled, seconds)
        self.restart_clock()
        self._log.write(row | {"time": self._measure(row, seconds, compiling)})
        self.report(row["step"], _describe(self._log.steps))

    def _measure(self, row: Row, seconds: float, compiling: float) -> Row:
        """Times of a step; its pace is that of the work without compiling."""
        working = max(seconds - compiling, 1e-9)
        rate = self._run.flops.count(row["tokens"], row["targets"]) / working
        # a peak that was measured beside other work is too low
        if self._peak and not compiling:
            self._peak = max(self._peak, rate)
        return {
            "seconds": round(seconds, 6),
            "compile_seconds": round(compiling, 6),
            "tokens_per_second": round(row["tokens"] / working, 1),
            "peak_share": round(min(rate / self._peak, 1.0), 5) if self._peak else None,
        }

    def _check(self, row: Row) -> None:
        """Raises UserError where a step shows that the run has failed.

        It diverges where each of the last MAX_DIVERGING_STEPS losses is more than twice what the
        first one was, and more than 1 nat above it.
        """
        step, loss, norm = row["step"], row["loss"], row["gradient_norm"]
        earlier = self._log.steps
        recent = [*(one["loss"] for one in earlier[-MAX_DIVERGING_STEPS + 1 :]), loss]
        first = earlier[0]["loss"] if earlier else loss
        is_long_enough = len(recent) == MAX_DIVERGING_STEPS
        diverges = is_long_enough and min(recent) > max(2 * first, first + 1)
        if np.isfinite(loss) and np.isfinite(norm) and not diverges:
            return
        what = f"the loss of step {step} is {loss:.4g}"
        if np.isfinite(loss) and not np.isfinite(norm):
            what += f", but the norm of its gradient {norm:.4g}"
        if diverges:
            what += f", it was {first:.4g} at first: the run diverges"
        names = [example.id for example in self._run.batches.examples_of(step - 1)]
        shown = ", ".join(names[:MAX_NAMED])
        if len(names) > MAX_NAMED:
            shown += f" and {len(names) - MAX_NAMED} more"
        raise UserError(f"{what}; its batch holds the examples {shown}; try a lower learning rate")

    def write_validation(self, row: Row) -> None:
        """Adds a row of the development split, whose time is no step's."""
        self._log.write(row)
        self.restart_clock()


def _describe(rows: Sequence[Row]) -> str:
    """The last step in a few words, and the pace of the last RECENT_STEPS."""
    recent = rows[-RECENT_STEPS:]
    times = [row["time"] for row in recent]
    working = [one["seconds"] - one.get("compile_seconds", 0.0) for one in times]
    total = max(sum(working), 1e-9)
    pace = sum(row["tokens"] for row in recent) / total
    share = sum(
        (one["peak_share"] or 0.0) * seconds for one, seconds in zip(times, working, strict=True)
    )
    return f"loss {rows[-1]['loss']:.3f}, {pace:,.0f} tokens/s, {100 * share / total:.0f} % of peak"
