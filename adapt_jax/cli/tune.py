"""``adapt-jax tune`` makes one adaptation."""

from typing import Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import OutputDir, Overrides, Quiet, TopLevelOverrides, collect_overrides

__all__ = ["tune"]


def tune(
    config: Annotated[str, Parameter(help="a YAML file such as configs/tune/lora.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
    **top_level: TopLevelOverrides,
) -> None:
    """Make one adaptation and save it.

    Runs the method that `method:` of the file names and saves the adaptation in
    OUTPUT-DIR/adaptation. OUTPUT-DIR/training holds the metrics of every step and the checkpoints.

    Killed at any moment and started again by the same command, the training continues from its
    last checkpoint and ends with the same parameters. SIGTERM or Ctrl-C saves first and exits with
    code 75, on which a launcher may start the command again (a second Ctrl-C exits at once).
    Checkpoints are written as often as they cost less than 2 % of the time, or every
    `training.checkpoint_every` steps.

    Any key of the file can be overridden by its path: `--method.training.steps 500`.
    """
    from adapt_jax.comparison.tune import tune as run_tuning

    given = collect_overrides(overrides, top_level)
    adaptation = run_tuning(config, output_dir, overrides=given, progress=not quiet)
    print(f"saved: {adaptation.folder}")
