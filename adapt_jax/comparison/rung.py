"""One run of a rung: what its result depends on, how it runs, and its files.

predictions/METHOD.jsonl   every question with its candidates, answer and vote
adaptations/METHOD         the adaptation
training/METHOD            metrics of every training step
unfinished/METHOD-ID       answers and checkpoints of a run that is not finished

Where a rung runs with several seeds, the files of the first lie there, those of seed N in
seed-N/predictions, seed-N/adaptations and seed-N/training.
"""

import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.storage import DESCRIPTION, FORMAT_VERSION
from adapt_jax.comparison.lengths import describe_dropped, describe_short_limit
from adapt_jax.comparison.recommendation import find_reference, paired_delta
from adapt_jax.comparison.seeds import SeedPlan, list_seed_folders
from adapt_jax.comparison.setup import RunInputs
from adapt_jax.comparison.unseen import evaluate_unseen
from adapt_jax.evaluation.evaluate import Evaluation, evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.over_seeds import Runs
from adapt_jax.evaluation.report.files import write_predictions
from adapt_jax.evaluation.results import DoneRung, SeedRun
from adapt_jax.evaluation.scorers import find_scorer
from adapt_jax.methods.base import Method, MethodResult, RunOptions
from adapt_jax.methods.registry import METHODS
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.utils import files
from adapt_jax.utils.agreement import run_on_main
from adapt_jax.utils.config import RunConfig
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import extension_version, hash_named_files, identity
from adapt_jax.utils.progress import Display
from adapt_jax.utils.text_files import read_json_lines

__all__ = [
    "RungFolder",
    "compare_to_previous",
    "load_finished",
    "measure_development",
    "remove_stale",
    "rung_folders",
    "run_rung",
    "seed_folders",
]

RESULTS_VERSION = 1  # raised when the same inputs begin to give another result


def rung_folders(
    output: Path, methods: Mapping[str, Method], inputs: RunInputs, seed: int, folder: str = "."
) -> dict[str, "RungFolder"]:
    """The files of each rung under a seed, by an identity of all that its result depends on.

    Where the run happens does not count: neither the paths of files, nor how many sequences are
    decoded at the same time, nor the mesh.
    """
    # what is reported about the data, and how other files are read, change no result
    task = replace(inputs.task, warnings=(), summary=None, question_format=None)
    judging = [extension_version(PARSERS[task.parser]), extension_version(find_scorer(task))]
    versions = [RESULTS_VERSION, FORMAT_VERSION]  # an adaptation of another format is made again
    common = identity(versions, inputs.model.identity, task, seed, judging)
    found = {}
    for name, method in methods.items():
        options = hash_named_files(method)
        code = [extension_version(one) for one in (type(method), *method.list_extensions())]
        whole = identity(common, name, options, code, method.list_inputs())
        found[name] = RungFolder(output, name, whole, seed, folder)
    return found


def seed_folders(
    output: Path, methods: Mapping[str, Method], inputs: RunInputs, plans: Mapping[str, SeedPlan]
) -> dict[str, list["RungFolder"]]:
    """The files of each run of each rung, the first seed's first."""
    found: dict[str, list[RungFolder]] = {name: [] for name in methods}
    every = dict.fromkeys(seed for plan in plans.values() for seed in plan.seeds)
    for number, seed in enumerate(every):
        depending = {name: one for name, one in methods.items() if seed in plans[name].seeds}
        place = f"seed-{seed}" if number else "."
        for name, folder in rung_folders(output, depending, inputs, seed, place).items():
            found[name].append(folder)
    return found


class RungFolder:
    """The files of one run of a rung in the output folder of a comparison."""

    def __init__(self, output: Path, name: str, identity: str, seed: int = 0, folder: str = "."):
        self.name, self.identity, self.seed, self.folder = name, identity, seed, folder
        self.title = name if folder == "." else f"{name} (seed {seed})"
        self.place = output / folder
        self.predictions = self.place / "predictions" / f"{name}.jsonl"
        self.adaptation = self.place / "adaptations" / name
        self.training = self.place / "training" / name
        self.unfinished = output / "unfinished" / f"{name}-{identity}"

    def journal(self, name: str) -> Journal:
        """Where the rung's answers are written as they come."""
        return Journal(self.unfinished / f"{name}.jsonl", self.identity)

    def read_scores(self, name: str = "score") -> list[float]:
        """The score of each question of the finished run, or ``correct`` as 0 or 1, in order.

        Raises:
            UserError: the file is missing or damaged.
        """
        scores = []
        for line, row in read_json_lines(self.predictions):
            score = row.get(name) if isinstance(row, dict) else None
            if not isinstance(score, int | float) or not 0 <= score <= 1:
                raise UserError(f"{self.predictions}, line {line}: `{name}` is not from 0 to 1")
            scores.append(float(score))
        return scores

    def save(self, adaptation: Adaptation, evaluation: Evaluation) -> int:
        """Writes what stays of a finished rung; returns the checksum of its predictions."""
        adaptation.save(self.adaptation)
        return run_on_main("predictions", lambda: self._write_rest(evaluation))

    def _write_rest(self, evaluation: Evaluation) -> int:
        write_predictions(self.predictions, evaluation)
        training = self.unfinished / "training"
        if training.is_dir():
            shutil.rmtree(self.training, ignore_errors=True)
            files.replace_folder(self.training, lambda new: _copy_metrics(training, new))
        return self.compute_checksum()

    def compute_checksum(self) -> int:
        """The CRC-32 of the predictions file.

        Raises:
            OSError: it cannot be read.
        """
        return zlib.crc32(self.predictions.read_bytes())

    def remove(self) -> None:
        """Removes what an earlier comparison left of this rung, and nothing else."""
        self.predictions.unlink(missing_ok=True)
        shutil.rmtree(self.training, ignore_errors=True)
        if (self.adaptation / DESCRIPTION).exists():
            shutil.rmtree(self.adaptation)


def _copy_metrics(training: Path, folder: Path) -> None:
    """Copies what a training wrote, except for its checkpoints."""
    shutil.copytree(
        training, folder, dirs_exist_ok=True, ignore=lambda *_: ["checkpoints", ".lock"]
    )


def load_finished(
    runs: Mapping[str, Sequence[SeedRun]], folders: Mapping[str, Sequence[RungFolder]]
) -> dict[str, dict[int, SeedRun]]:
    """By rung and seed, the earlier runs with unchanged files, and the identity they have now."""
    finished: dict[str, dict[int, SeedRun]] = {}
    for name, earlier in runs.items():
        for folder in folders.get(name, ()):
            for run in earlier:
                if (
                    (run.identity, run.folder) == (folder.identity, folder.folder)
                    and (folder.adaptation / DESCRIPTION).is_file()
                    and _matches_predictions(run, folder)
                ):
                    finished.setdefault(name, {})[folder.seed] = run
    return finished


def _matches_predictions(run: SeedRun, folder: RungFolder) -> bool:
    """Whether the predictions file is as it was written, and gives the score of the run."""
    try:
        scores = folder.read_scores()
        if folder.compute_checksum() != run.predictions_crc32:
            return False
    except (UserError, OSError):
        return False
    return len(scores) == run.n and abs(sum(scores) / run.n - run.score) < 1e-9


def remove_stale(
    output: Path,
    folders: Mapping[str, Sequence[RungFolder]],
    finished: Mapping[str, Mapping[int, SeedRun]],
) -> list[str]:
    """Removes what earlier comparisons left: runs that do not count, and old unfinished ones.

    Returns:
        the names of the finished runs that are gone.
    """
    removed = []
    planned = {(one.folder, one.name): one for runs in folders.values() for one in runs}
    counts = {one for one in planned.values() if one.seed in finished.get(one.name, {})}
    for place in (output, *list_seed_folders(output)):
        at = "." if place == output else place.name
        for name in METHODS:
            seed = int(at.removeprefix("seed-")) if place != output else 0
            folder = planned.get((at, name)) or RungFolder(output, name, "", seed, at)
            if folder not in counts:
                if folder.predictions.exists() and not folder.unfinished.exists():
                    removed.append(folder.title)
                folder.remove()
        for half_saved in (place / "adaptations").glob(".*"):
            shutil.rmtree(half_saved, ignore_errors=True)
        if place != output:
            _remove_empty(place)
    going_on = {folder.unfinished for folder in planned.values() if folder not in counts}
    for left in (output / "unfinished").glob("*-*"):
        if left not in going_on:
            shutil.rmtree(left, ignore_errors=True)
    return removed


def _remove_empty(place: Path) -> None:
    """Removes the folder of a seed of which nothing is left."""
    for folder in (place / "predictions", place / "adaptations", place / "training", place):
        with suppress(OSError):
            folder.rmdir()  # only where it is empty


def run_rung(
    folder: RungFolder,
    method: Method,
    inputs: RunInputs,
    settings: RunConfig,
    display: Display,
    *,
    on_development: bool = False,
) -> tuple[SeedRun, Evaluation]:
    """Adapts, answers the test split, and writes all but comparison.json.

    Whatever an interrupted run of the same rung has left is not done again.

    Args:
        on_development: answers the development split, too.

    Raises:
        MethodNotApplicable: the reason why this rung cannot run on this task or decoder.
    """
    result = _adapt(folder, method, inputs, settings, display)
    with display.stage(f"{folder.title}: answering") as update:
        evaluation = evaluate(
            result.adaptation,
            inputs.task,
            seed=folder.seed,
            max_concurrent_sequences=settings.max_concurrent_sequences,
            on_progress=update,
            journal=folder.journal("answers"),
        )
    unseen = None
    if result.held_out:
        with display.stage(f"{folder.title}: unseen categories") as update:
            unseen = evaluate_unseen(
                result,
                inputs.model,
                seed=folder.seed,
                max_concurrent_sequences=settings.max_concurrent_sequences,
                on_progress=update,
                open_journal=folder.journal,
            )
    too_long = [
        describe_dropped(result.details, inputs.model),
        describe_short_limit(method, inputs.model, inputs.task),
    ]
    run = SeedRun(
        **evaluation.result.model_dump(exclude={"warnings"}),
        warnings=[*filter(None, too_long), *evaluation.result.warnings],
        seed=folder.seed,
        folder=folder.folder,
        identity=folder.identity,
        trainable_parameters=result.trainable_parameters,
        train_seconds=round(result.train_seconds, 3),
        training=result.details,
        unseen_categories=unseen,
    )
    if on_development:
        score = measure_development(folder, result.adaptation, inputs, settings, display)
        run.development_score = score
    run.predictions_crc32 = folder.save(result.adaptation, evaluation)
    return run, evaluation


def _adapt(
    folder: RungFolder,
    method: Method,
    inputs: RunInputs,
    settings: RunConfig,
    display: Display,
) -> MethodResult:
    """Makes the adaptation of a rung, or goes on with one that was interrupted.

    Raises:
        MethodNotApplicable: the rung cannot run on this task or decoder.
    """
    with display.stage(f"{folder.title}: adapting") as update:
        options = RunOptions(
            seed=folder.seed,
            folder=folder.unfinished / "training",
            mesh=inputs.mesh,
            on_step=update,
            run_metadata={"rung": folder.identity},
            max_concurrent_sequences=settings.max_concurrent_sequences,
        )
        result = method.adapt(inputs.model, inputs.task, options)
    result.adaptation.question_format = inputs.task.question_format
    return result


def measure_development(
    folder: RungFolder,
    adaptation: Adaptation,
    inputs: RunInputs,
    settings: RunConfig,
    display: Display,
) -> float | None:
    """The mean score of an adaptation on the development split; None where there is none."""
    if not inputs.task.development:
        return None
    with display.stage(f"{folder.title}: answering the development split") as update:
        evaluation = evaluate(
            adaptation,
            inputs.task,
            inputs.task.development,
            seed=folder.seed,
            max_concurrent_sequences=settings.max_concurrent_sequences,
            on_progress=update,
            journal=folder.journal("development"),
        )
    return evaluation.result.score


def compare_to_previous(
    rung: DoneRung,
    below: Sequence[DoneRung],
    scores: Mapping[str, Runs],
    reference: str | None,
) -> DoneRung:
    """The rung with its differences to the rung below, and to the reference rung.

    Args:
        below: the rungs below that were measured, the lowest first.
        scores: by method, of each question under each seed.
        reference: a method's name; None takes the highest rung below that trains nothing.
    """
    vs_previous = vs_reference = None
    own = scores[rung.method]
    if below:
        previous = below[-1].method
        vs_previous = paired_delta(previous, own, scores[previous])
    if (other := find_reference(below, reference)) is not None:
        vs_reference = paired_delta(other, own, scores[other])
    relations: dict[str, Any] = {
        "vs_previous": vs_previous,
        "p_value_vs_previous": None if vs_previous is None else vs_previous.p_value,
        "vs_reference": vs_reference,
    }
    return rung.model_copy(update=relations)
