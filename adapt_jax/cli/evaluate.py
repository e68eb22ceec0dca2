"""``adapt-jax evaluate`` judges a saved adaptation on a task."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from adapt_jax.cli.adaptations import open_adaptation
from adapt_jax.cli.options import (
    AdaptationPath,
    Concurrency,
    DecoderPath,
    Overrides,
    Quiet,
    Seed,
    collect_overrides,
)
from adapt_jax.utils.errors import UserError

__all__ = ["evaluate"]


def evaluate(
    adaptation: AdaptationPath,
    task: Annotated[str, Parameter(help="a task file such as configs/tasks/arithmetic.yaml")],
    /,
    *,
    output_dir: Annotated[
        str | None, Parameter(help="writes evaluation.json and predictions.jsonl there")
    ] = None,
    decoder: DecoderPath = None,
    seed: Seed = 0,
    max_concurrent_sequences: Concurrency = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Evaluate a saved adaptation on the test split of a task.

    With --output-dir it writes evaluation.json and predictions.jsonl; until then the answers are
    kept in predictions.partial.jsonl. Interrupted at any moment and started again by the same
    command, it continues where it stopped. Keys of the task are overridden by their path:
    `--task.splits.test 100`.
    """
    from adapt_jax.comparison.setup import report_task
    from adapt_jax.evaluation.evaluate import evaluate as run_evaluation
    from adapt_jax.evaluation.journal import Journal
    from adapt_jax.evaluation.report.files import write_evaluation
    from adapt_jax.evaluation.report.text import describe_evaluation
    from adapt_jax.tasks.loading import load_task
    from adapt_jax.utils.agreement import agree, check_shared_folder
    from adapt_jax.utils.config import override, read_yaml
    from adapt_jax.utils.distributed import is_main_process
    from adapt_jax.utils.files import check_output_folder
    from adapt_jax.utils.hashing import identity
    from adapt_jax.utils.progress import Display

    task_keys = _select_task_keys(collect_overrides(overrides))
    agree("command", {"adaptation": adaptation, "task": task, "seed": seed, "set": task_keys})
    if output_dir:
        check_output_folder(output_dir)
        check_shared_folder(Path(output_dir))
    read_task = load_task(override(read_yaml(task), task_keys, task), Path(task).parent)
    display = Display(not quiet)
    report_task(read_task, display)
    opened = open_adaptation(adaptation, decoder)
    output, journal = Path(output_dir or "."), None
    if output_dir:
        work = identity(opened.identity, read_task, seed)
        agree("input", {"adaptation and task": work})
        journal = Journal(output / "predictions.partial.jsonl", work)
    with display.stage("answering") as update:
        evaluation = run_evaluation(
            opened,
            read_task,
            seed=seed,
            max_concurrent_sequences=max_concurrent_sequences,
            on_progress=update,
            journal=journal,
        )
    for line in describe_evaluation(evaluation.result):
        print(line)
    if journal is not None:
        if is_main_process():
            write_evaluation(output, evaluation, read_task, method=opened.method, seed=seed)
            journal.remove()
        print(f"results: {output}")


def _select_task_keys(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides by their path within the task.

    Raises:
        UserError: one of them is no key of the task.
    """
    for key in overrides:
        if not key.startswith("task."):
            raise UserError(f"--{key}: evaluate overrides keys of the task only, as --task.KEY")
    return {key.removeprefix("task."): value for key, value in overrides.items()}
