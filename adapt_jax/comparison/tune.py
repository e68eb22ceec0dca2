"""Makes one adaptation by one method, and saves it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.storage import DESCRIPTION
from adapt_jax.comparison.lengths import describe_dropped, report_short_limits
from adapt_jax.comparison.setup import (
    RunInputs,
    agree_on,
    choose_output_folder,
    load_inputs,
    report_task,
)
from adapt_jax.methods.base import Method, MethodResult, RunOptions
from adapt_jax.methods.registry import METHODS
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.utils.agreement import agree, on_main
from adapt_jax.utils.bucket_mirror import mirror
from adapt_jax.utils.config import Overrides, TuneConfig, load_config, validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import check_target_folder
from adapt_jax.utils.locks import lock_folder
from adapt_jax.utils.progress import Display

__all__ = ["tune"]


def tune(
    config: str | Path | Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    overrides: Overrides | None = None,
    progress: bool = True,
) -> Adaptation:
    """Adapts a decoder by one method, and saves the adaptation in ``output_dir/adaptation``.

    A training that was interrupted continues from its last checkpoint in ``output_dir/training``
    and ends with the same parameters.

    Args:
        config: a YAML file such as configs/tune/lora.yaml, or the mapping that it holds.
        overrides: values of dotted keys, ``{"method.training.steps": 7}``.

    Raises:
        UserError: for whatever the user can mend, a method that cannot run on this task included.
        Interrupted: SIGTERM or Ctrl-C stopped the training, which has saved.
    """
    settings, where, place = load_config(TuneConfig, config, overrides)
    name, method = _read_method(settings, where)
    agree_on(settings, "tune")
    output = choose_output_folder(output_dir, settings, config)
    agree("command", {"output-dir": str(output)})
    display = Display(progress)
    with mirror(output) as local:
        check_target_folder(local / "adaptation", DESCRIPTION)
        inputs = load_inputs(settings, place)
        report_task(inputs.task, display)
        report_short_limits({name: method}, inputs.model, inputs.task, display)
        with on_main("output folder", lambda: lock_folder(local)):
            with display.stage(f"{name}: adapting") as update:
                run = RunOptions(
                    seed=settings.seed,
                    folder=local / "training",
                    mesh=inputs.mesh,
                    on_step=update,
                    run_metadata=_run_metadata(settings),
                    max_concurrent_sequences=settings.max_concurrent_sequences,
                )
                result = _adapt(name, method, inputs, run, where)
            result.adaptation.save(local / "adaptation")
    result.adaptation.folder = output / "adaptation"
    display.line(
        f"{name}: {result.trainable_parameters:,} parameters trained "
        f"in {result.train_seconds:.0f} seconds"
    )
    if (dropped := describe_dropped(result.details, inputs.model)) is not None:
        display.line(f"{name}: {dropped}")
    return result.adaptation


def _adapt(
    name: str, method: Method, inputs: RunInputs, run: RunOptions, where: str
) -> MethodResult:
    """Raises UserError where the method cannot run on the task."""
    try:
        result = method.adapt(inputs.model, inputs.task, run)
    except MethodNotApplicable as reason:
        raise UserError(f"{where}: {name} cannot run on {inputs.task.name}: {reason}") from None
    result.adaptation.question_format = inputs.task.question_format
    return result


def _read_method(settings: TuneConfig, where: str) -> tuple[str, Method]:
    """The method's name, and its options checked."""
    options = dict(settings.method)
    name = str(options.pop("name", None))
    method = METHODS.find(name, f"{where}: method.name")
    return name, validate(method, options, f"{where}: method")


def _run_metadata(settings: TuneConfig) -> dict[str, Any]:
    """All that a checkpoint must agree with: what shapes the run, but not where it runs.

    The trainer itself compares what ``training`` holds.
    """
    metadata = settings.model_dump(
        exclude={"decoder", "seed", "output_dir", "max_concurrent_sequences", "mesh"}
    )
    metadata["method"].pop("training", None)
    return metadata
