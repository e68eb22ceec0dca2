"""One rung of the ladder: what its result depends on, how it runs, and its files.

predictions/METHOD.jsonl   every question with its candidates, answer and vote
adaptations/METHOD         the adaptation
training/METHOD            metrics of every training step
unfinished/METHOD-ID       answers and checkpoints of a rung that is not finished
"""

import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.storage import DESCRIPTION, FORMAT_VERSION
from adapt_jax.comparison.recommendation import find_reference, paired_delta
from adapt_jax.comparison.setup import RunInputs
from adapt_jax.comparison.unseen import evaluate_unseen
from adapt_jax.evaluation.evaluate import Evaluation, evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.report.files import write_predictions
from adapt_jax.evaluation.results import DoneRung
from adapt_jax.evaluation.scorers import find_scorer
from adapt_jax.methods.base import Method, RunOptions
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
    "remove_stale",
    "rung_folders",
    "run_rung",
]

RESULTS_VERSION = 1  # raised when the same inputs begin to give another result


def rung_folders(
    output: Path, methods: Mapping[str, Method], inputs: RunInputs, seed: int
) -> dict[str, "RungFolder"]:
    """The files of each rung, by an identity of all that its result depends on.

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
        found[name] = RungFolder(output, name, whole)
    return found


class RungFolder:
    """The files of one rung in the output folder of a comparison."""

    def __init__(self, output: Path, name: str, identity: str):
        self.name, self.identity = name, identity
        self.predictions = output / "predictions" / f"{name}.jsonl"
        self.adaptation = output / "adaptations" / name
        self.training = output / "training" / name
        self.unfinished = output / "unfinished" / f"{name}-{identity}"

    def journal(self, name: str) -> Journal:
        """Where the rung's answers are written as they come."""
        return Journal(self.unfinished / f"{name}.jsonl", self.identity)

    def read_scores(self) -> list[float]:
        """The score of each question of the finished rung, in the order of the task.

        Raises:
            UserError: the file is missing or damaged.
        """
        scores = []
        for line, row in read_json_lines(self.predictions):
            score = row.get("score") if isinstance(row, dict) else None
            if not isinstance(score, int | float) or not 0 <= score <= 1:
                raise UserError(f"{self.predictions}, line {line}: `score` is not from 0 to 1")
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
    rungs: Sequence[DoneRung], folders: Mapping[str, RungFolder]
) -> dict[str, DoneRung]:
    """Those rungs of an earlier run that are whole, and that would come out the same again."""
    finished = {}
    for rung in rungs:
        folder = folders.get(rung.method)
        if (
            folder is not None
            and rung.identity == folder.identity
            and (folder.adaptation / DESCRIPTION).is_file()
            and _matches_predictions(rung, folder)
        ):
            finished[rung.method] = rung
    return finished


def _matches_predictions(rung: DoneRung, folder: RungFolder) -> bool:
    """Whether the predictions file is as it was written, and gives the score of the rung."""
    try:
        scores = folder.read_scores()
        if folder.compute_checksum() != rung.predictions_crc32:
            return False
    except (UserError, OSError):
        return False
    return len(scores) == rung.n and abs(sum(scores) / rung.n - rung.score) < 1e-9


def remove_stale(
    output: Path, folders: Mapping[str, RungFolder], finished: Mapping[str, DoneRung]
) -> list[str]:
    """Removes what earlier comparisons left: rungs that do not count, and old unfinished ones.

    Returns:
        the names of the finished rungs that are gone.
    """
    removed = []
    for name in METHODS:
        folder = folders.get(name) or RungFolder(output, name, "")
        if name not in finished:
            if folder.predictions.exists() and not folder.unfinished.exists():
                removed.append(name)
            folder.remove()
    for half_saved in (output / "adaptations").glob(".*"):
        shutil.rmtree(half_saved, ignore_errors=True)
    going_on = {folder.unfinished for name, folder in folders.items() if name not in finished}
    for left in (output / "unfinished").glob("*-*"):
        if left not in going_on:
            shutil.rmtree(left, ignore_errors=True)
    return removed


def run_rung(
    folder: RungFolder, method: Method, inputs: RunInputs, settings: RunConfig, display: Display
) -> tuple[DoneRung, list[float]]:
    """Adapts, answers the test split, and writes all but comparison.json.

    Whatever an interrupted run of the same rung has left is not done again.

    Returns:
        the rung, not yet compared with others; and the score of each question.

    Raises:
        MethodNotApplicable: the reason why this rung cannot run on this task or decoder.
    """
    name = folder.name
    with display.stage(f"{name}: adapting") as update:
        run = RunOptions(
            seed=settings.seed,
            folder=folder.unfinished / "training",
            mesh=inputs.mesh,
            on_step=update,
            run_metadata={"rung": folder.identity},
            max_concurrent_sequences=settings.max_concurrent_sequences,
        )
        result = method.adapt(inputs.model, inputs.task, run)
        result.adaptation.question_format = inputs.task.question_format
    with display.stage(f"{name}: answering") as update:
        evaluation = evaluate(
            result.adaptation,
            inputs.task,
            seed=settings.seed,
            max_concurrent_sequences=settings.max_concurrent_sequences,
            on_progress=update,
            journal=folder.journal("answers"),
        )
    unseen = None
    if result.held_out:
        with display.stage(f"{name}: unseen categories") as update:
            unseen = evaluate_unseen(
                result,
                inputs.model,
                seed=settings.seed,
                max_concurrent_sequences=settings.max_concurrent_sequences,
                on_progress=update,
                open_journal=folder.journal,
            )
    rung = DoneRung(
        **evaluation.result.model_dump(),
        method=name,
        identity=folder.identity,
        trainable_parameters=result.trainable_parameters,
        train_seconds=round(result.train_seconds, 3),
        training=result.details,
        unseen_categories=unseen,
    )
    rung.predictions_crc32 = folder.save(result.adaptation, evaluation)
    return rung, evaluation.scores


def compare_to_previous(
    rung: DoneRung,
    below: Sequence[DoneRung],
    scores: Mapping[str, Sequence[float]],
    reference: str | None,
) -> DoneRung:
    """The rung with its differences to the rung below, and to the reference rung.

    Args:
        below: the rungs below that were measured, the lowest first.
        scores: by method, of each question.
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
