"""A rung of the ladder on disk: what it depends on, what was measured, where it goes on.

predictions/METHOD.jsonl   every question with its candidates, answer and vote
adaptations/METHOD         the adaptation
training/METHOD            metrics of every training step
unfinished/METHOD-ID       answers and checkpoints of a rung that is not finished
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import DESCRIPTION, Adaptation
from adapt_jax.evaluation import report
from adapt_jax.evaluation.evaluate import Evaluation, evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.significance import paired_difference, paired_p_value
from adapt_jax.methods.registry import METHODS, Method, MethodResult, adapt
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.tasks.task import Task
from adapt_jax.utils import progress as progress_bars
from adapt_jax.utils.config import RunConfig
from adapt_jax.utils.hashing import identity

MEASURED = (  # what every rung has in comparison.json, null where it was skipped
    "accuracy",
    "ci95",
    "n",
    "p_value_vs_previous",
    "prompt_tokens",
    "generated_tokens",
    "seconds",
    "trainable_parameters",
    "train_seconds",
)
RELATIONS = ("p_value_vs_previous", "vs_previous", "vs_chain_of_thought")  # to other rungs


def folders(
    output: Path, methods: Mapping[str, Method], model: PretrainedDecoder, task: Task, seed: int
) -> dict[str, "Folder"]:
    """The rungs' places, by an identity of all that a result depends on; not of where it runs."""
    common = identity(model.fingerprint, task, seed)
    found = {}
    for name, method in methods.items():
        options = method.model_dump()
        files = [Path(value) for value in options.values() if isinstance(value, str)]
        contents = [path.read_bytes() for path in files if path.is_file()]  # such as a mixture's
        found[name] = Folder(output, name, identity(common, name, options, contents))
    return found


class Folder:
    """The places of one rung in the output folder of a comparison."""

    def __init__(self, output: Path, name: str, identity: str):
        self.name, self.identity = name, identity
        self.predictions = output / "predictions" / f"{name}.jsonl"
        self.adaptation = output / "adaptations" / name
        self.training = output / "training" / name
        self.unfinished = output / "unfinished" / f"{name}-{identity}"

    def journal(self, of: str) -> Journal:
        """Where the answers ``of`` the rung are written as they come."""
        return Journal(self.unfinished / f"{of}.jsonl", self.identity)

    def correct(self) -> list[bool]:
        """Per question of the finished rung, in the order of the task: was it right?"""
        lines = self.predictions.read_text(encoding="utf-8").split("\n")  # texts may hold U+2028
        return [bool(json.loads(line)["correct"]) for line in filter(None, lines)]

    def finish(self, adaptation: Adaptation, evaluation: Evaluation) -> None:
        """Writes what stays of a rung."""
        adaptation.save(self.adaptation)
        report.write_predictions(self.predictions, evaluation)
        training = self.unfinished / "training"
        if training.is_dir():
            shutil.rmtree(self.training, ignore_errors=True)
            shutil.copytree(training, self.training, ignore=lambda *_: ["checkpoints"])

    def clear(self) -> None:
        """Takes away what an earlier comparison left of this rung, and nothing else."""
        self.predictions.unlink(missing_ok=True)
        shutil.rmtree(self.training, ignore_errors=True)
        if (self.adaptation / DESCRIPTION).exists():
            shutil.rmtree(self.adaptation)


def kept(results: Path, folders: Mapping[str, Folder]) -> dict[str, dict[str, Any]]:
    """The rungs that an earlier run has finished, and that would come out the same again."""
    try:
        rungs = json.loads(results.read_text(encoding="utf-8"))["rungs"]
        found = {rung["method"]: rung for rung in rungs if rung["status"] == "done"}
        return {
            name: found[name]
            for name, folder in folders.items()
            if found.get(name, {}).get("identity") == folder.identity
            and (folder.adaptation / DESCRIPTION).is_file()
            and len(folder.correct()) == found[name]["n"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def clear(output: Path, folders: Mapping[str, Folder], kept: Mapping[str, Any]) -> list[str]:
    """Takes away what earlier comparisons left: rungs that are not kept, unfinished ones of old.

    Returns:
        the names of the finished rungs that are gone.
    """
    gone = []
    for name in METHODS:
        folder = folders.get(name) or Folder(output, name, "")
        if name not in kept:
            here = folder.predictions.exists() and not folder.unfinished.exists()
            gone += [name] if here else []
            folder.clear()
    going_on = {folder.unfinished for name, folder in folders.items() if name not in kept}
    for half in (output / "adaptations").glob(".*"):  # killed while it was saved
        shutil.rmtree(half, ignore_errors=True)
    for left in (output / "unfinished").glob("*-*"):
        if left not in going_on:
            shutil.rmtree(left, ignore_errors=True)
    return gone


def skipped(name: str, reason: str) -> dict[str, Any]:
    """A rung that could not run."""
    rung: dict[str, Any] = {"method": name, "status": "skipped", "reason": reason}
    return rung | dict.fromkeys(MEASURED)


def climb(
    folder: Folder,
    method: Method,
    model: PretrainedDecoder,
    task: Task,
    settings: RunConfig,
    mesh: Any,
    display: progress_bars.Display,
) -> tuple[dict[str, Any], list[bool]]:
    """Adapts, answers the test split, and writes all but comparison.json.

    Whatever an interrupted run of the same rung has left is not done again.

    Returns:
        the rung as it stands in comparison.json, without RELATIONS; and its right answers.

    Raises:
        CannotRun: with the reason why this rung has no place on this task or decoder.
    """
    name = folder.name
    with display.stage(f"{name}: adapting") as update:
        adapted = adapt(
            name,
            method,
            model,
            task,
            seed=settings.seed,
            folder=folder.unfinished / "training",
            mesh=mesh,
            on_step=update,
            run_metadata={"rung": folder.identity},
        )
    with display.stage(f"{name}: answering") as update:
        evaluation = evaluate(
            adapted.adaptation,
            task,
            seed=settings.seed,
            slots=settings.slots,
            on_progress=update,
            journal=folder.journal("answers"),
        )
    rung: dict[str, Any] = {
        "method": name,
        "status": "done",
        "reason": None,
        "identity": folder.identity,
        **evaluation.to_dict(),
        "trainable_parameters": adapted.trainable_parameters,
        "train_seconds": round(adapted.train_seconds, 3),
        "training": adapted.details,
    }
    if adapted.unseen is not None:
        with display.stage(f"{name}: kinds it has not seen") as update:
            rung["unseen_kinds"] = unseen_kinds(adapted, model, settings, folder, update)
    folder.finish(adapted.adaptation, evaluation)
    return rung, evaluation.correct


def relations(correct: list[bool], earlier: Mapping[str, list[bool]]) -> dict[str, Any]:
    """How a rung stands to the last one that ran, and to chain of thought.

    ``p_value_vs_previous`` is McNemar's exact test; the paired differences in accuracy have their
    95 % intervals.
    """
    told: dict[str, Any] = {"p_value_vs_previous": None}
    if earlier:
        previous = list(earlier)[-1]
        told["p_value_vs_previous"] = paired_p_value(correct, earlier[previous])
        told["vs_previous"] = {"method": previous} | against(correct, earlier[previous])
    if "chain_of_thought" in earlier:
        told["vs_chain_of_thought"] = against(correct, earlier["chain_of_thought"])
    return told


def against(correct: list[bool], reference: list[bool]) -> dict[str, Any]:
    """The paired difference in accuracy, positive where ``correct`` is the better one."""
    difference, low, high = paired_difference(correct, reference)
    return {"difference": difference, "ci95": [low, high]}


def unseen_kinds(
    adapted: MethodResult,
    model: PretrainedDecoder,
    settings: RunConfig,
    folder: Folder,
    update: progress_bars.Update,
) -> dict[str, dict[str, Any]]:
    """Zero-shot accuracy on kinds of instruction that the training left out, before and after.

    Returns:
        per kind, and for "all" of them together with McNemar's p-value, the shares answered right.
    """
    task, tuned = adapted.unseen, adapted.adaptation
    assert task is not None
    prompt = replace(
        tuned.prompt,
        template=task.template,
        instruction=task.instruction,
        demonstrations=(),
        parser=task.parser,
    )
    before, after = (
        evaluate(
            Adaptation("zero_shot", prompt, decoder),
            task,
            seed=settings.seed,
            slots=settings.slots,
            on_progress=update,
            journal=folder.journal(when),
        )
        for when, decoder in (("unseen_before", model), ("unseen_after", tuned.model))
    )

    def share(correct: list[bool], kind: str | None) -> float:
        chosen = [c for c, e in zip(correct, task.test, strict=True) if kind in (None, e.kind)]
        return sum(chosen) / len(chosen)

    result: dict[str, dict[str, Any]] = {
        name or "all": {"before": share(before.correct, name), "after": share(after.correct, name)}
        for name in (None, *dict.fromkeys(example.kind for example in task.test))
    }
    result["all"]["p_value"] = paired_p_value(before.correct, after.correct)
    return result
