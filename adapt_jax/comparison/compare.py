"""Climbs the ladder: which technique is enough for this task, and what does each one cost?"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.storage import DESCRIPTION
from adapt_jax.comparison.adaptations import RESULTS, find_rung_folder
from adapt_jax.comparison.earlier_runs import find_finished
from adapt_jax.comparison.lengths import report_short_limits
from adapt_jax.comparison.recommendation import recommend
from adapt_jax.comparison.rung import (
    RungFolder,
    compare_to_previous,
    seed_folders,
)
from adapt_jax.comparison.seed_runs import RungProgress, run_seeds
from adapt_jax.comparison.seeds import (
    ScoredRun,
    SeedPlan,
    join_runs,
    plan_seeds,
)
from adapt_jax.comparison.setup import (
    RunInputs,
    agree_on,
    choose_methods,
    choose_output_folder,
    load_inputs,
    report_task,
)
from adapt_jax.evaluation.baseline import measure_commonest_label, score_label
from adapt_jax.evaluation.report.files import (
    read_comparison,
    write_comparison,
)
from adapt_jax.evaluation.report.picture import save_picture
from adapt_jax.evaluation.report.table import make_ladder_table
from adapt_jax.evaluation.report.text import describe_rung
from adapt_jax.evaluation.results import (
    ComparisonResult,
    DoneRung,
    RungResult,
    SkippedRung,
)
from adapt_jax.methods.base import Method
from adapt_jax.methods.registry import METHODS
from adapt_jax.utils import agreement, distributed, files
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.bucket_mirror import mirror
from adapt_jax.utils.config import CompareConfig, Overrides, load_config
from adapt_jax.utils.locks import lock_folder
from adapt_jax.utils.progress import Display

__all__ = ["RESULTS", "Comparison", "compare"]

PICTURE = "ladder.png"
MAX_SEEDS = 30  # letters of the seeds in a title
SHOW_PROMPT = 'adapt_jax.Adaptation.load("adaptations/METHOD").prompt_text("QUESTION")'


@dataclass
class Comparison:
    """A climbed ladder and its output folder.

    ``result`` is the content of comparison.json; ``found`` has by method each seed's run
    with the score of each question, ``baseline_scores`` has those of always giving the commonest
    label.
    """

    output_dir: Path
    result: ComparisonResult
    found: dict[str, list[ScoredRun]] = field(default_factory=dict)
    baseline_scores: list[float] = field(default_factory=list)

    @classmethod
    def load(cls, folder: str | Path) -> "Comparison":
        """Reads the comparison in an output folder.

        Raises:
            UserError: there is none, or its comparison.json is damaged.
        """
        folder = to_path(folder)
        return cls(folder, read_comparison(folder / RESULTS))

    @property
    def rungs(self) -> list[RungResult]:
        """All rungs in the ladder's order."""
        return self.result.rungs

    @property
    def measured_rungs(self) -> list[DoneRung]:
        """The rungs that were not skipped."""
        return [rung for rung in self.rungs if isinstance(rung, DoneRung)]

    @property
    def best(self) -> str | None:
        """The rung that is enough (see recommendation.recommend); None where none ran."""
        return self.result.best

    def __getitem__(self, method: str) -> RungResult:
        """A rung by its name."""
        for rung in self.rungs:
            if rung.method == method:
                return rung
        raise KeyError(method)

    def adaptation(
        self, method: str | None = None, decoder: str | Path | None = None
    ) -> Adaptation:
        """The saved adaptation of a rung, by default of the one that is enough.

        Args:
            decoder: where its decoder is; by default where it was (see Adaptation.load).

        Raises:
            UserError: the rung was skipped, or is not on this ladder.
        """
        return Adaptation.load(self.adaptation_folder(method), decoder)

    def adaptation_folder(self, method: str | None = None) -> Path:
        """Where the adaptation of a rung is saved, by default of the one that is enough.

        Raises:
            UserError: the rung was skipped, or is not on this ladder.
        """
        return find_rung_folder(self.output_dir, self.result, method)

    def table(self) -> Table:
        """The ladder as a rich table."""
        return make_ladder_table(self.result, self.title)

    def short_table(self) -> Table:
        """The table without the sentences below it, for a ladder that is still climbed."""
        return make_ladder_table(self.result, self.title, notes=False)

    @property
    def scores(self) -> dict[str, list[float]]:
        """By method the score of each question, of several seeds the mean over them."""
        return {
            name: [sum(one) / len(one) for one in zip(*runs, strict=True)]
            for name, runs in self.scores_by_seed.items()
        }

    @property
    def scores_by_seed(self) -> dict[str, list[list[float]]]:
        """By method the score of each question under each seed."""
        return {name: [run.scores for run in runs] for name, runs in self.found.items()}

    @property
    def title(self) -> str:
        """Task, decoder and seed in one line."""
        asked = f"{self.measured_rungs[0].n} test questions, " if self.measured_rungs else ""
        result = self.result
        seeds = f"seed {result.seed}"
        if result.seeds is not None:
            named = ", ".join(map(str, result.seeds))
            seeds = f"seeds {named}" if len(named) <= MAX_SEEDS else f"{len(result.seeds)} seeds"
        return f"{result.task}, {asked}decoder {result.decoder}, {seeds}"

    def measured_below(self, method: str) -> list[DoneRung]:
        """The measured rungs below a rung, the lowest first."""
        order = list(METHODS)
        return [one for one in self.measured_rungs if order.index(one.method) < order.index(method)]

    def add_rung(self, rung: RungResult) -> None:
        """Puts a rung at its place in the ladder, and decides again which one is enough."""
        by_name = {one.method: one for one in [*self.rungs, rung]}
        rungs = [by_name[name] for name in METHODS if name in by_name]
        measured = [one for one in rungs if isinstance(one, DoneRung)]
        enough = recommend(
            measured, self.scores_by_seed, self.result.baseline, self.baseline_scores
        )
        best = enough.method if enough is not None else None
        changed = {"rungs": rungs, "recommendation": enough, "best": best}
        self.result = self.result.model_copy(update=changed)

    def save(self) -> None:
        """Writes comparison.json and the picture, each whole."""
        write_comparison(self.output_dir / RESULTS, self.result)
        save_picture(self.result, self.output_dir / PICTURE, self.title)


def compare(
    config: str | Path | Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    overrides: Overrides | None = None,
    progress: bool = True,
    fresh: bool = False,
) -> Comparison:
    """Climbs the ladder on the test split of a task.

    Writes ``comparison.json`` (rewritten after every rung), ``ladder.png``,
    ``predictions/METHOD.jsonl`` and ``adaptations/METHOD`` into the output folder. With ``seeds``
    each rung that depends on a seed runs once with each of them; the files of further seeds are in
    ``seed-N``.

    Interrupted at any moment and called again, it continues where it stopped and ends with the same
    files, except for ``seconds``, ``train_seconds``, ``compilations`` and the checksums over these.
    A finished rung does not run again while nothing that it depends on has changed (see
    rung.rung_folders); where something has, or where its results are not those that were written,
    it is replaced.

    Args:
        config: a YAML file such as configs/ladder.yaml, or the mapping that it holds.
        overrides: values of dotted keys, ``{"task.seed": 7}``.
        fresh: run every rung again, whatever the output folder holds.

    Raises:
        UserError: for whatever the user can mend; nothing is written before all input is checked.
    """
    settings, where, place = load_config(CompareConfig, config, overrides)
    methods = choose_methods(settings, where)
    display = Display(progress)
    agree_on(settings, "compare")
    output = choose_output_folder(output_dir, settings, config)
    agreement.agree("command", {"output-dir": str(output), "fresh": fresh})
    with mirror(output) as local:
        inputs = load_inputs(settings, place)
        with agreement.on_main("output folder", lambda: lock_folder(local)):
            comparison = _run_rungs(settings, methods, inputs, local, display, fresh)
    return replace(comparison, output_dir=output)


def _run_rungs(
    settings: CompareConfig,
    methods: Mapping[str, Method],
    inputs: RunInputs,
    output: Path,
    display: Display,
    fresh: bool,
) -> Comparison:
    """Runs the rungs one after the other, in a folder that is this process's own."""
    plans = plan_seeds(methods, inputs, settings.seeds or [settings.seed])
    folders = seed_folders(output, methods, inputs, plans)
    for one in (run for runs in folders.values() for run in runs):
        files.check_target_file(one.predictions)
        files.check_target_folder(one.adaptation, DESCRIPTION)
    comparison = Comparison(output, _start_result(settings, inputs))
    if (baseline := comparison.result.baseline) is not None:
        comparison.baseline_scores = score_label(inputs.task, baseline.label)
    report_task(inputs.task, display)
    report_short_limits(methods, inputs.model, inputs.task, display)
    finished = _keep_finished(comparison, folders, plans, display, settings, fresh)
    with display.live(comparison.short_table) as draw:
        draw()
        for name, method in methods.items():
            known = finished.get(name, {})
            for progress in run_seeds(
                folders[name], plans[name], method, inputs, settings, display, known
            ):
                rung = _add_progress(comparison, progress, plans[name], settings.reference)
                draw()
                agreement.run_on_main("rung", partial(_finish_run, comparison, progress.folder))
                if not display.is_live:
                    display.line(describe_rung(rung) + _describe_progress(progress, plans[name]))
    if distributed.is_main_process():
        shutil.rmtree(output / "unfinished", ignore_errors=True)
    return comparison


def _add_progress(
    comparison: Comparison, progress: RungProgress, plan: SeedPlan, reference: str | None
) -> RungResult:
    """Puts what is known of a rung into the comparison."""
    name = progress.folder.name
    if not progress.runs:
        why = next(iter(progress.failures.values()))
        comparison.add_rung(skipped := SkippedRung(method=name, reason=why))
        return skipped
    comparison.found[name] = progress.runs
    rung = join_runs(name, progress.runs, plan, progress.failures)
    below = comparison.measured_below(name)
    rung = compare_to_previous(rung, below, comparison.scores_by_seed, reference)
    comparison.add_rung(rung)
    return rung


def _describe_progress(progress: RungProgress, plan: SeedPlan) -> str:
    """How much of a rung is new, and how many of its seeds are missing."""
    done = len(progress.runs) + len(progress.failures)
    counted = f" ({done} of {len(plan.seeds)} seeds)" if done < len(plan.seeds) else ""
    return counted if progress.is_new or progress.failures else " (from an earlier run)"


def _finish_run(comparison: Comparison, folder: RungFolder) -> None:
    """Writes the results so far; what an interrupted run needs is then no longer needed."""
    comparison.save()
    shutil.rmtree(folder.unfinished, ignore_errors=True)


def _start_result(settings: CompareConfig, inputs: RunInputs) -> ComparisonResult:
    """The result before any rung has run."""
    task = inputs.task
    return ComparisonResult(
        task=task.name,
        decoder=settings.decoder,
        seed=settings.seed,
        seeds=settings.seeds if settings.seeds and len(settings.seeds) > 1 else None,
        baseline=measure_commonest_label(task),
        warnings=list(task.warnings),
        task_summary=task.summary,
        show_prompt=SHOW_PROMPT,
    )


def _keep_finished(
    comparison: Comparison,
    folders: Mapping[str, Sequence[RungFolder]],
    plans: Mapping[str, SeedPlan],
    display: Display,
    settings: CompareConfig,
    fresh: bool,
) -> dict[str, dict[int, ScoredRun]]:
    """Takes over the valid runs of an earlier comparison (see earlier_runs); removes the others."""
    results = comparison.output_dir / RESULTS
    finished = find_finished(results, folders, settings.seed, display, fresh)
    for name, runs in finished.items():
        progress = RungProgress(folders[name][0], list(runs.values()))
        _add_progress(comparison, progress, plans[name], settings.reference)
    if finished and distributed.is_main_process():
        comparison.save()
    return finished
