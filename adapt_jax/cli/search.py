"""``adapt-jax search`` finds a good prompt by experiment."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import OutputDir, Overrides, Quiet, TopLevelOverrides, collect_overrides

if TYPE_CHECKING:
    from adapt_jax.comparison.search_result import Measured

__all__ = ["search"]


def search(
    config: Annotated[str, Parameter(help="a YAML file such as configs/search.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
    **top_level: TopLevelOverrides,
) -> None:
    """Find good demonstrations, their order and an instruction.

    Prompts with random demonstrations race on the development split until `max_questions` are
    asked. The best one answers the test split once and is saved in OUTPUT-DIR/adaptation;
    OUTPUT-DIR/search.json holds every prompt that was tried. Interrupted and started again by the
    same command, it continues where it stopped.

    Any key of the file can be overridden: `--max-questions 500`,
    `--method.demonstrations 4`.
    """
    from adapt_jax.comparison.search import search as run_search

    given = collect_overrides(overrides, top_level)
    found = run_search(config, output_dir, overrides=given, progress=not quiet)
    chosen = found.tried[found.chosen]
    print(f"{len(found.tried)} prompts tried, {found.asked:,} development questions asked")
    print(f"the best ({chosen.origin}): development {_describe(found.development)}")
    if found.test is not None:
        print(f"test {_describe(found.test)}")


def _describe(measured: "Measured") -> str:
    low, high = measured.ci95
    text = f"{100 * measured.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"
    return f"{text} of {measured.n} questions"
