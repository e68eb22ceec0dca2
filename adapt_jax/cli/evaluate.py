"""``adapt-jax evaluate`` judges a saved adaptation on a task."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from adapt_jax.cli.options import (
    AdaptationPath,
    Concurrency,
    DecoderPath,
    Overrides,
    Quiet,
    Seed,
    collect_overrides,
)
from adapt_jax.comparison.adaptations import open_adaptation
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.evaluation.journal import Journal

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
    from adapt_jax.evaluation.report.files import write_evaluation
    from adapt_jax.evaluation.report.text import describe_evaluation
    from adapt_jax.tasks.loading import load_task
    from adapt_jax.utils.agreement import agree
    from adapt_jax.utils.bucket import to_path
    from adapt_jax.utils.config import override, read_yaml
    from adapt_jax.utils.distributed import is_main_process
    from adapt_jax.utils.hashing import identity
    from adapt_jax.utils.progress import Display

    task_keys = _select_task_keys(collect_overrides(overrides))
    agree("command", {"adaptation": adaptation, "task": task, "seed": seed, "set": task_keys})
    with _open_folder(output_dir) as output:
        config = override(read_yaml(task), task_keys, task)
        read_task = load_task(config, to_path(task).parent, name=task)
        display = Display(not quiet)
        report_task(read_task, display)
        opened = open_adaptation(adaptation, decoder)
        journal = None
        if output is not None:
            journal = _open_journal(output, identity(opened.identity, read_task, seed))
        with display.stage("answering") as update:
            evaluation = run_evaluation(
                opened,
                read_task,
                seed=seed,
                max_concurrent_sequences=max_concurrent_sequences,
                on_progress=update,
                journal=journal,
            )
        print("\n".join(describe_evaluation(evaluation.result)))
        if output is not None and journal is not None and is_main_process():
            write_evaluation(output, evaluation, read_task, method=opened.method, seed=seed)
            journal.remove()
    if output_dir:
        print(f"results: {to_path(output_dir)}")


@contextmanager
def _open_folder(output_dir: str | None) -> Iterator[Path | None]:
    """The folder of the results on this machine, where results are wanted.

    Raises:
        UserError: it cannot be written, or the processes do not share it.
    """
    from adapt_jax.utils.bucket import to_path
    from adapt_jax.utils.bucket_mirror import mirror
    from adapt_jax.utils.files import check_output_folder

    if not output_dir:
        yield None
        return
    check_output_folder(output_dir)
    with mirror(to_path(output_dir)) as local:
        yield local


def _open_journal(folder: Path, work: str) -> "Journal":
    """The answers so far, of an evaluation with this identity."""
    from adapt_jax.evaluation.journal import Journal
    from adapt_jax.utils.agreement import agree

    agree("input", {"adaptation and task": work})
    return Journal(folder / "predictions.partial.jsonl", work)


def _select_task_keys(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides by their path within the task.

    Raises:
        UserError: one of them is no key of the task.
    """
    for key in overrides:
        if not key.startswith("task."):
            raise UserError(f"--{key}: evaluate overrides keys of the task only, as --task.KEY")
    return {key.removeprefix("task."): value for key, value in overrides.items()}
