"""Runs one rung of the ladder with each of its seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison.rung import RungFolder, measure_development, run_rung
from adapt_jax.comparison.seeds import ScoredRun, SeedPlan
from adapt_jax.comparison.setup import RunInputs
from adapt_jax.methods.base import Method
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.utils.compilations import count_compilations
from adapt_jax.utils.config import RunConfig
from adapt_jax.utils.progress import Display

__all__ = ["RungProgress", "run_seeds"]


@dataclass
class RungProgress:
    """The runs of a rung so far.

    Attributes:
        folder: of the last run.
        failures: by seed, why the rung cannot run.
        is_new: whether a run was made now; otherwise all come from an earlier comparison.
    """

    folder: RungFolder
    runs: list[ScoredRun] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    is_new: bool = False


def run_seeds(
    folders: Sequence[RungFolder],
    plan: SeedPlan,
    method: Method,
    inputs: RunInputs,
    settings: RunConfig,
    display: Display,
    earlier: Mapping[int, ScoredRun],
) -> Iterator[RungProgress]:
    """Runs a rung with each seed that is missing; yields the progress after each run.

    Where nothing is missing, it yields once.

    Args:
        folders: of the runs, one for each seed of the plan.
        earlier: by seed, the runs of an earlier comparison that are still valid.
    """
    progress = RungProgress(folders[0])
    is_reported = False
    for folder in folders:
        progress.folder, is_reported = folder, False
        known = earlier.get(folder.seed)
        try:
            scored = _complete(folder, known, plan, method, inputs, settings, display)
        except MethodNotApplicable as reason:
            progress.failures[folder.seed] = str(reason)
            continue
        progress.runs.append(scored)
        if scored is not known:
            progress.is_new = is_reported = True
            yield progress
    if not is_reported:
        yield progress


def _complete(
    folder: RungFolder,
    known: ScoredRun | None,
    plan: SeedPlan,
    method: Method,
    inputs: RunInputs,
    settings: RunConfig,
    display: Display,
) -> ScoredRun:
    """The run that is known, with what the choice among seeds needs; otherwise a new one.

    Raises:
        MethodNotApplicable: the rung cannot run on this task or decoder.
    """
    is_measured = plan.chooses and bool(inputs.task.development)
    if known is None:
        return _run(folder, method, inputs, settings, display, is_measured)
    if not is_measured or known.run.development_score is not None:
        return known
    # it was the only seed of an earlier comparison
    adaptation = Adaptation.load(folder.adaptation, inputs.model)
    score = measure_development(folder, adaptation, inputs, settings, display)
    return replace(known, run=known.run.model_copy(update={"development_score": score}))


def _run(
    folder: RungFolder,
    method: Method,
    inputs: RunInputs,
    settings: RunConfig,
    display: Display,
    on_development: bool,
) -> ScoredRun:
    """Runs a rung under one seed."""
    if folder.unfinished.exists():
        display.line(f"{folder.title}: continues where it stopped")
    compilations = count_compilations()
    before = len(compilations)
    run, evaluation = run_rung(
        folder, method, inputs, settings, display, on_development=on_development
    )
    run.compilations = len(compilations) - before
    return ScoredRun(run, evaluation.scores, [float(one) for one in evaluation.correct])
