"""``adapt-jax compare`` climbs the ladder."""

from typing import Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import OutputDir, Overrides, Quiet, TopLevelOverrides, collect_overrides

__all__ = ["compare"]


def compare(
    config: Annotated[str, Parameter(help="a YAML file such as configs/ladder.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    only: Annotated[
        str | None, Parameter(help="run these rungs and no others: few_shot,lora")
    ] = None,
    fresh: Annotated[
        bool, Parameter(help="run every rung again, finished or not", show_default=False)
    ] = False,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006 (never changed)
    **top_level: TopLevelOverrides,
) -> None:
    """Climb the ladder: every technique on one task.

    Every rung adapts the same frozen decoder, answers the same test questions, and is compared
    with the rung below. The output folder then holds:

    - comparison.json: accuracy, intervals, significance and cost of every rung
    - ladder.png: the same as a picture
    - predictions/METHOD.jsonl: every question with its candidates, answer and vote
    - adaptations/METHOD: the adaptation, to be asked, evaluated, exported

    Interrupted at any moment and started again by the same command, it continues where it stopped
    and ends with the same files, except for times and compilations. A finished rung runs again
    only where something that it depends on has changed, or with --fresh.

    Your own task, a CSV with the columns `text` and `label`, is a file such as

    ```yaml
    name: support
    source: {name: csv, path: tickets.csv}
    fields: {question: text, answer: label}
    instruction: Which department answers this ticket?
    answer_parser: label
    splits: {train: 200, development: 100, test: 300}
    ```

    and runs with `adapt-jax compare configs/ladder.yaml --task my_task.yaml --decoder FOLDER`. Keys
    of the task and of each method are overridden by their path: `--task.seed 7`,
    `--task.splits.test 100`, `--methods.few_shot.demonstrations 4`, `--methods.lora null`.
    """
    from adapt_jax.comparison.compare import compare as run_comparison
    from adapt_jax.utils.progress import new_console

    given = collect_overrides(overrides, top_level)
    if only is not None:
        given["methods_subset"] = only
    comparison = run_comparison(
        config, output_dir, overrides=given, progress=not quiet, fresh=fresh
    )
    new_console().print(comparison.table())
    print(f"results: {comparison.output_dir}")
    if comparison.best:
        print(f'now try: adapt-jax ask {comparison.output_dir} "..." --show-reasoning')
