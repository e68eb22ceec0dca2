"""The files of an earlier comparison: valid runs are kept, others are removed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt_jax.comparison.rung import RungFolder, load_finished, remove_stale
from adapt_jax.comparison.seeds import ScoredRun, list_runs
from adapt_jax.evaluation.report.files import read_whole_rungs
from adapt_jax.evaluation.results import SeedRun
from adapt_jax.utils import agreement
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.progress import Display

__all__ = ["find_finished"]


def find_finished(
    results: Path,
    folders: Mapping[str, Sequence[RungFolder]],
    seed: int,
    display: Display,
    fresh: bool,
) -> dict[str, dict[int, ScoredRun]]:
    """By rung and seed, the valid earlier runs; the others are removed.

    A run is valid if it has the identity that it would have now, and its files are unchanged.

    Args:
        results: comparison.json in the output folder.
        folders: of the runs that are asked for.
        seed: of a rung that names no seeds.
        fresh: whether every earlier run is removed.
    """

    def find() -> list[Any]:
        found = []
        for name, runs in _clear_folder(results, folders, seed, display, fresh).items():
            for folder in folders[name]:
                if (run := runs.get(folder.seed)) is not None:
                    scores = folder.read_scores(), folder.read_scores("correct")
                    found.append([name, run.model_dump(mode="json"), *scores])
        return found

    # what process 0 finds there
    finished: dict[str, dict[int, ScoredRun]] = {}
    for name, plain, scores, correct in agreement.run_on_main("finished runs", find):
        run = SeedRun.model_validate(plain)
        finished.setdefault(name, {})[run.seed] = ScoredRun(run, scores, correct)
    return finished


def _clear_folder(
    results: Path,
    folders: Mapping[str, Sequence[RungFolder]],
    seed: int,
    display: Display,
    fresh: bool,
) -> dict[str, dict[int, SeedRun]]:
    """The valid runs of an earlier comparison; all others are removed."""
    output = results.parent
    finished: dict[str, dict[int, SeedRun]] = {}
    if not fresh:
        try:
            whole, changed = read_whole_rungs(results)
            earlier = {rung.method: list_runs(rung, seed) for rung in whole}
            finished = load_finished(earlier, folders)
            changed += _find_changed(earlier, folders, finished)
            for name in changed:
                display.line(
                    f"{display_text(name, 60)}: its results have changed since they were written "
                    f"(damaged or edited); it is run again"
                )
        except UserError:
            pass  # none there, or a damaged one: every rung runs
    removed = remove_stale(output, {} if fresh else folders, finished)
    if removed:
        display.line(f"{output.name} held another comparison; replaced: {', '.join(removed)}")
    if not finished:
        results.unlink(missing_ok=True)
    return finished


def _find_changed(
    earlier: Mapping[str, Sequence[SeedRun]],
    folders: Mapping[str, Sequence[RungFolder]],
    finished: Mapping[str, Mapping[int, SeedRun]],
) -> list[str]:
    """Runs with the identity that they would have now, whose files have changed since."""
    return [
        folder.title
        for name, runs in earlier.items()
        for folder in folders.get(name, ())
        if folder.seed not in finished.get(name, {})
        and (folder.identity, folder.folder) in [(run.identity, run.folder) for run in runs]
    ]
