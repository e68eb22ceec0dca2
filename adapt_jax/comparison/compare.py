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
from adapt_jax.comparison.recommendation import recommend
from adapt_jax.comparison.rung import (
    RungFolder,
    compare_to_previous,
    load_finished,
    remove_stale,
    run_rung,
    rung_folders,
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
    read_whole_rungs,
    write_comparison,
)
from adapt_jax.evaluation.report.picture import save_picture
from adapt_jax.evaluation.report.table import make_ladder_table
from adapt_jax.evaluation.report.text import describe_rung
from adapt_jax.evaluation.results import ComparisonResult, DoneRung, RungResult, SkippedRung
from adapt_jax.methods.base import Method
from adapt_jax.methods.registry import METHODS
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.utils import agreement, distributed, files
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.bucket_mirror import mirror
from adapt_jax.utils.compilations import count_compilations
from adapt_jax.utils.config import CompareConfig, Overrides, load_config
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_folder
from adapt_jax.utils.progress import Display

__all__ = ["RESULTS", "Comparison", "compare"]

RESULTS = "comparison.json"
PICTURE = "ladder.png"
SHOW_PROMPT = 'adapt_jax.Adaptation.load("adaptations/METHOD").prompt_text("QUESTION")'


@dataclass
class Comparison:
    """A climbed ladder and its output folder.

    ``result`` is the content of comparison.json; ``scores`` has by method the score of each
    question, ``baseline_scores`` those of always giving the commonest label.
    """

    output_dir: Path
    result: ComparisonResult
    scores: dict[str, list[float]] = field(default_factory=dict)
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
        method = method or self.best
        if method is None:
            raise UserError(f"{self.output_dir}: no adaptation, every rung was skipped")
        measured = [rung.method for rung in self.measured_rungs]
        if method not in measured:
            why = "was skipped" if method in [rung.method for rung in self.rungs] else "did not run"
            raise UserError(
                f"{self.output_dir}: no adaptation, {method} {why}; there are "
                f"{', '.join(measured) or 'none'}"
            )
        return self.output_dir / "adaptations" / method

    def table(self) -> Table:
        """The ladder as a rich table."""
        return make_ladder_table(self.result, self.title)

    def short_table(self) -> Table:
        """The same without the sentences below, while the ladder is climbed."""
        return make_ladder_table(self.result, self.title, notes=False)

    @property
    def title(self) -> str:
        """Task, decoder and seed in one line."""
        asked = f"{self.measured_rungs[0].n} test questions, " if self.measured_rungs else ""
        result = self.result
        return f"{result.task}, {asked}decoder {result.decoder}, seed {result.seed}"

    def measured_below(self, method: str) -> list[DoneRung]:
        """The measured rungs below a rung, the lowest first."""
        order = list(METHODS)
        return [one for one in self.measured_rungs if order.index(one.method) < order.index(method)]

    def add_rung(self, rung: RungResult) -> None:
        """Puts a rung at its place in the ladder, and decides again which one is enough."""
        by_name = {one.method: one for one in [*self.rungs, rung]}
        rungs = [by_name[name] for name in METHODS if name in by_name]
        measured = [one for one in rungs if isinstance(one, DoneRung)]
        enough = recommend(measured, self.scores, self.result.baseline, self.baseline_scores)
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
    ``predictions/METHOD.jsonl`` and ``adaptations/METHOD`` into the output folder.

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
        agreement.check_shared_folder(local)
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
    folders = rung_folders(output, methods, inputs, settings.seed)
    for one in folders.values():
        files.check_target_file(one.predictions)
        files.check_target_folder(one.adaptation, DESCRIPTION)
    comparison = Comparison(output, _start_result(settings, inputs))
    if (baseline := comparison.result.baseline) is not None:
        comparison.baseline_scores = score_label(inputs.task, baseline.label)
    report_task(inputs.task, display)
    finished = _keep_finished(comparison, folders, display, fresh)
    with display.live(comparison.short_table) as draw:
        draw()
        for name, method in methods.items():
            if name in finished:
                rung: RungResult = finished[name]
            else:
                rung, scores = _run(folders[name], method, inputs, settings, display)
                if scores is not None:
                    comparison.scores[name] = scores
            if isinstance(rung, DoneRung):
                below = comparison.measured_below(name)
                rung = compare_to_previous(rung, below, comparison.scores, settings.reference)
            comparison.add_rung(rung)
            draw()
            agreement.run_on_main("rung", partial(_finish_rung, comparison, folders[name]))
            if not display.is_live:
                earlier = " (from an earlier run)" if name in finished else ""
                display.line(describe_rung(rung) + earlier)
    if distributed.is_main_process():
        shutil.rmtree(output / "unfinished", ignore_errors=True)
    return comparison


def _finish_rung(comparison: Comparison, folder: RungFolder) -> None:
    """Writes the results so far; what an interrupted rung needs is then no longer needed."""
    comparison.save()
    shutil.rmtree(folder.unfinished, ignore_errors=True)


def _start_result(settings: CompareConfig, inputs: RunInputs) -> ComparisonResult:
    """The result before any rung has run."""
    task = inputs.task
    return ComparisonResult(
        task=task.name,
        decoder=settings.decoder,
        seed=settings.seed,
        baseline=measure_commonest_label(task),
        warnings=list(task.warnings),
        task_summary=task.summary,
        show_prompt=SHOW_PROMPT,
    )


def _keep_finished(
    comparison: Comparison, folders: Mapping[str, RungFolder], display: Display, fresh: bool
) -> dict[str, DoneRung]:
    """Takes over the rungs of an earlier run that would come out the same; removes the others."""

    def keep() -> dict[str, Any]:
        finished = _clear_folder(comparison.output_dir, folders, display, fresh)
        return {name: rung.model_dump(mode="json") for name, rung in finished.items()}

    # what process 0 finds there
    kept = agreement.run_on_main("finished rungs", keep)
    finished = {name: DoneRung.model_validate(rung) for name, rung in kept.items()}
    comparison.scores = agreement.run_on_main(
        "scores", lambda: {name: folders[name].read_scores() for name in finished}
    )
    for rung in finished.values():
        comparison.add_rung(rung)
    if finished and distributed.is_main_process():
        comparison.save()
    return finished


def _clear_folder(
    output: Path, folders: Mapping[str, RungFolder], display: Display, fresh: bool
) -> dict[str, DoneRung]:
    """The rungs of an earlier run that count; all others are removed."""
    finished: dict[str, DoneRung] = {}
    if not fresh:
        try:
            whole, changed = read_whole_rungs(output / RESULTS)
            finished = load_finished(whole, folders)
            changed += _find_changed(whole, folders, finished)
            for name in changed:
                display.line(
                    f"{display_text(name, 60)}: its results have changed since they were written "
                    f"(damaged or edited); it is run again"
                )
        except UserError:
            pass  # none there, or a damaged one: every rung runs
    removed = remove_stale(output, {} if fresh else folders, finished)
    if removed:
        display.line(f"{output} held another comparison; replaced: {', '.join(removed)}")
    if not finished:
        (output / RESULTS).unlink(missing_ok=True)
    return finished


def _find_changed(
    rungs: Sequence[DoneRung],
    folders: Mapping[str, RungFolder],
    finished: Mapping[str, DoneRung],
) -> list[str]:
    """Rungs that would come out the same, but whose files are not those that were written."""
    return [
        rung.method
        for rung in rungs
        if rung.method not in finished
        and (folder := folders.get(rung.method)) is not None
        and rung.identity == folder.identity
    ]


def _run(
    folder: RungFolder,
    method: Method,
    inputs: RunInputs,
    settings: CompareConfig,
    display: Display,
) -> tuple[RungResult, list[float] | None]:
    """Runs one rung, or says why it cannot run; and the score of each question."""
    if folder.unfinished.exists():
        display.line(f"{folder.name}: continues where it stopped")
    compilations = count_compilations()
    before = len(compilations)
    try:
        rung, scores = run_rung(folder, method, inputs, settings, display)
    except MethodNotApplicable as reason:
        return SkippedRung(method=folder.name, reason=str(reason)), None
    rung.compilations = len(compilations) - before
    return rung, scores
