"""The one trainer: takes the steps of a run, and saves and validates on the way."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.metrics_log import MetricsLog, plot_losses
from adapt_jax.training.placement import Placement
from adapt_jax.training.resume import Saver, describe_run
from adapt_jax.training.run import TrainingData, TrainingRun, set_up_run
from adapt_jax.training.step_reports import OnStep, StepReporter
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import BestStep
from adapt_jax.utils.distributed import is_main_process
from adapt_jax.utils.interruption import Interrupted

__all__ = ["OnStep", "TrainingData", "TrainingResult", "train"]


@dataclass
class TrainingResult:
    """The outcome of a run: the loss of every step (nats per target token), best step, cost."""

    losses: list[float] = field(default_factory=list)
    trainable_parameters: int = 0
    seconds: float = 0.0
    padding_share: float = 0.0
    dropped: int = 0
    best: BestStep | None = None


def train(
    model: TunedDecoder,
    trainable: Any,
    data: TrainingData,
    config: TrainingConfig,
    *,
    seed: int,
    folder: Path | None = None,
    mesh: Mesh | None = None,
    on_step: OnStep | None = None,
    run_metadata: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Trains the part of ``model`` that the filter ``trainable`` selects, in place.

    A run with a folder survives its process: killed at any moment and called again with the same
    arguments, it continues from its last checkpoint and ends, on as many devices, with bitwise
    identical parameters and the same metrics.jsonl (except for times). Where it validates,
    ``model`` is left as it was at the best step, otherwise as it is after the last.

    Args:
        trainable: an nnx filter, for example ``nnx.Param`` or ``nnx.PathContains("soft_prompt")``.
        folder: where metrics and checkpoints go; a run that was interrupted there continues.
        mesh: the devices that it runs on.
        on_step: called after every step, and before a step is compiled.
        run_metadata: settings that are part of the run's identity, as plain JSON; a checkpoint of
            other settings is refused.

    Raises:
        UserError: nothing to train, a batch that cannot be shared by the mesh, a loss or gradient
            that is not finite (step and examples are named), or a folder of another run.
        Interrupted: SIGTERM or Ctrl-C came; all is saved.
    """
    run = set_up_run(model, trainable, data, config, seed, Placement(mesh))
    with ExitStack() as stack:
        saver = None
        if folder is not None and config.checkpoint_every != 0:
            description = describe_run(run, data, seed, run_metadata)
            saver = stack.enter_context(Saver(run, folder, description, seed))
        log = stack.enter_context(MetricsLog(folder, run.steps_done, config.trackers))
        _run_steps(run, log, StepReporter(run, log, on_step), saver)
        if folder is not None and is_main_process():
            plot_losses(log.rows, folder / "loss.png")
    nnx.update(model, run.final_weights)
    return TrainingResult(
        losses=log.losses,
        trainable_parameters=run.num_trainable,
        seconds=sum(row["time"]["seconds"] for row in log.steps),
        padding_share=float(np.mean([row["padding"] for row in log.steps] or [0.0])),
        dropped=run.batches.dropped,
        best=None if run.validator is None else run.best,
    )


def _run_steps(
    run: TrainingRun, log: MetricsLog, reporter: StepReporter, saver: Saver | None
) -> None:
    """Takes the steps that are left.

    Raises:
        UserError: a step fails.
        Interrupted: a signal asked to stop, and the run is saved.
    """
    num_steps = run.config.steps
    while run.steps_done < num_steps and not run.has_lost_patience:
        batch = next(run.batches)
        reporter.announce_compilation(batch)
        run.state, metrics = run.step(
            run.state, run.frozen, run.placement.place_batch(batch), run.prompt_prefix
        )
        run.steps_done += 1
        reporter.flush_metrics()  # of the step before, while the device works on this one
        reporter.add_step(run.steps_done, metrics, batch)

        has_improved = False
        if run.should_validate(run.steps_done):
            reporter.flush_metrics()
            reporter.report(run.steps_done, "validating")
            has_improved, row = run.validate(run.steps_done)
            reporter.write_validation(row)

        if saver is None:
            continue
        is_last = run.steps_done == num_steps or run.has_lost_patience
        stop = saver.stop_requested()
        if is_last or has_improved or stop or saver.is_due(run.steps_done):
            reporter.flush_metrics()
            log.sync()  # a checkpoint is never ahead of its log
            saver.save()
        if stop and not is_last:
            raise Interrupted(
                f"stopped by {stop} after step {run.steps_done} of {num_steps}, saved in "
                f"{saver.folder}; the same command continues from there",
                everywhere=True,
            )
    reporter.flush_metrics()
