"""Climbs the ladder: which technique is enough for this task, and what does each one cost?"""

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison import rung as rungs
from adapt_jax.evaluation import report
from adapt_jax.methods.registry import METHODS, Method, adapt, unknown_method
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.prompt import MethodNotApplicable, resolve_template
from adapt_jax.tasks.task import Task, load_task
from adapt_jax.utils import files
from adapt_jax.utils import progress as progress_bars
from adapt_jax.utils.config import (
    CompareConfig,
    Overrides,
    RunConfig,
    TuneConfig,
    checked,
    load_config,
    use_compilation_cache,
)
from adapt_jax.utils.cpu import COMPILED
from adapt_jax.utils.errors import UserError

RESULTS = "comparison.json"


@dataclass
class Comparison:
    """A climbed ladder. ``rungs`` are what stands in comparison.json, in the ladder's order."""

    task: str
    decoder: str
    seed: int
    output_dir: Path
    rungs: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> list[dict[str, Any]]:
        """The rungs that were not skipped."""
        return [rung for rung in self.rungs if rung["status"] == "done"]

    @property
    def best(self) -> str | None:
        """The most accurate rung; of equals the one that spends fewer tokens on a question."""
        if not self.done:
            return None
        rank = lambda rung: (rung["accuracy"], -rung["prompt_tokens"] - rung["generated_tokens"])  # noqa: E731
        return max(self.done, key=rank)["method"]

    def __getitem__(self, method: str) -> dict[str, Any]:
        """A rung by its name."""
        for rung in self.rungs:
            if rung["method"] == method:
                return rung
        raise KeyError(method)

    def adaptation(self, method: str | None = None) -> Adaptation:
        """The saved adaptation of a rung, the best one when not named."""
        method = method or self.best
        if method is None or self[method]["status"] != "done":
            raise UserError(
                f"{self.output_dir}: no adaptation, {method or 'every rung'} was skipped"
            )
        return Adaptation.load(self.output_dir / "adaptations" / method)

    def to_dict(self) -> dict[str, Any]:
        """What is written to comparison.json."""
        return {
            "task": self.task,
            "decoder": self.decoder,
            "seed": self.seed,
            "best": self.best,
            "notes": list(self.notes),
            "rungs": self.rungs,
        }

    def table(self) -> Any:
        """The ladder as a rich table."""
        return report.table(self.rungs, self.title)

    @property
    def title(self) -> str:
        """What was compared, in one line."""
        n = self.done[0]["n"] if self.done else 0
        return f"{self.task}, {n} test questions, decoder {self.decoder}, seed {self.seed}"

    def put(self, rung: dict[str, Any]) -> None:
        """Adds a rung at its place in the ladder, or replaces it."""
        found = {one["method"]: one for one in [*self.rungs, rung]}
        self.rungs = [found[name] for name in METHODS if name in found]

    def write(self) -> None:
        """comparison.json and the picture, each whole or as it was."""
        files.write_json(self.output_dir / RESULTS, self.to_dict())
        report.picture(self.rungs, self.output_dir / "ladder.png", self.title)


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

    Interrupted at any moment and called again, it goes on where it stood and ends with the same
    files, but for ``seconds``, ``train_seconds`` and ``compilations``. A rung that was finished
    there is not climbed again while nothing that it depends on has changed (its options, the task,
    the decoder, the seed); where something has, it is replaced.

    Args:
        config: a YAML file such as configs/ladder.yaml, or the mapping that it holds.
        overrides: values of dotted keys, ``{"task.seed": 7}``.
        fresh: climb every rung anew, whatever the output folder holds.

    Raises:
        UserError: for whatever the user can mend; nothing is written before all input is checked.
    """
    settings, where, folder = load_config(CompareConfig, config, overrides)
    methods = chosen_methods(settings, where)
    display = progress_bars.Display(progress)
    task, model, mesh = open_run(settings, folder)
    output = output_folder(output_dir, settings, config)
    result = Comparison(task.name, settings.decoder, settings.seed, output, notes=task.notes)
    for note in task.notes:
        display.line(note)
    folders = rungs.folders(output, methods, model, task, settings.seed)
    known = {} if fresh else rungs.kept(output / RESULTS, folders)
    if gone := rungs.clear(output, {} if fresh else folders, known):
        display.line(f"{output} held another comparison; replaced: {', '.join(gone)}")
    result.rungs = list(known.values())
    if known:
        result.write()
    else:
        (output / RESULTS).unlink(missing_ok=True)
    correct: dict[str, list[bool]] = {}
    compilations = count_compilations()
    for name, method in methods.items():
        compiled = len(compilations)
        try:
            if name in known:
                rung, right = known[name], folders[name].correct()
            else:
                if folders[name].unfinished.exists():
                    display.line(f"{name}: goes on where it stood")
                rung, right = rungs.climb(
                    folders[name], method, model, task, settings, mesh, display
                )
                rung["compilations"] = len(compilations) - compiled
        except MethodNotApplicable as reason:
            rung = rungs.skipped(name, str(reason))
        else:
            rung = {key: value for key, value in rung.items() if key not in rungs.RELATIONS}
            rung |= rungs.relations(right, correct)
            correct[name] = right
        result.put(rung)
        result.write()
        shutil.rmtree(folders[name].unfinished, ignore_errors=True)
        from_before = " (from an earlier run)" if name in known else ""
        display.line(report.describe(rung) + from_before)
    shutil.rmtree(output / "unfinished", ignore_errors=True)
    return result


def tune(
    config: str | Path | Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    overrides: Overrides | None = None,
    progress: bool = True,
) -> Adaptation:
    """Adapts a decoder by one rung, and saves the adaptation in ``output_dir/adaptation``.

    A training that was interrupted goes on from its last checkpoint in ``output_dir/training``
    and ends as if it had not been.

    Raises:
        UserError: for whatever the user can mend, a rung that cannot run on this task included.
        Interrupted: SIGTERM or Ctrl-C stopped the training; it has saved.
    """
    settings, where, folder = load_config(TuneConfig, config, overrides)
    options = dict(settings.method)
    name = options.pop("name", None)
    if name not in METHODS:
        raise UserError(f"{where}: method.name: {unknown_method(str(name))}")
    method: Method = checked(METHODS[name], options, f"{where}: method")
    task, model, mesh = open_run(settings, folder)
    output = output_folder(output_dir, settings, config)
    display = progress_bars.Display(progress)
    for note in task.notes:
        display.line(note)
    try:
        with display.stage(f"{name}: adapting") as update:
            adapted = adapt(
                name,
                method,
                model,
                task,
                seed=settings.seed,
                folder=output / "training",
                mesh=mesh,
                on_step=update,
                run_metadata=run_metadata(settings),
            )
    except MethodNotApplicable as reason:
        raise UserError(f"{where}: {name} cannot run on {task.name}: {reason}") from None
    adapted.adaptation.save(output / "adaptation")
    display.line(
        f"{name}: {adapted.trainable_parameters:,} parameters trained "
        f"in {adapted.train_seconds:.0f} seconds"
    )
    return adapted.adaptation


def run_metadata(settings: TuneConfig) -> dict[str, Any]:
    """What makes a run what it is; not where it runs, nor what the trainer tells by itself."""
    told = settings.model_dump(exclude={"decoder", "seed", "output_dir", "slots", "mesh"})
    told["method"].pop("training", None)
    return told


def chosen_methods(settings: CompareConfig, where: str) -> dict[str, Method]:
    """The rungs to climb with their options checked, in the ladder's order."""
    only = settings.only
    names = [part.strip() for part in only.split(",")] if isinstance(only, str) else only
    for name in [*settings.methods, *(names or ())]:
        if name not in METHODS:
            raise UserError(f"{where}: methods: {unknown_method(name)}")
    options = dict(settings.methods)
    if names:  # a rung that is asked for by name is run, with its defaults if need be
        options = {name: options.get(name) or {} for name in names}
    methods = {
        name: checked(method, options[name] or {}, f"{where}: methods.{name}")
        for name, method in METHODS.items()
        if options.get(name) is not None
    }
    if not methods:
        raise UserError(f"{where}: methods: no rung to climb; the rungs are {', '.join(METHODS)}")
    return methods


def open_run(settings: RunConfig, folder: Path) -> tuple[Task, PretrainedDecoder, Mesh | None]:
    """The task, the decoder and the mesh of a run."""
    use_compilation_cache()
    assert isinstance(settings.task, dict)  # load_config has read it in
    task = load_task(settings.task, folder)
    mesh = None
    if settings.mesh is not None:
        from adapt_jax.decoders.sharding import make_mesh

        mesh = make_mesh(**settings.mesh.model_dump())
    model = load_pretrained(settings.decoder, mesh=mesh, context_length=settings.context_length)
    return resolve_template(task, model), model, mesh


def output_folder(
    asked: str | Path | None, settings: RunConfig, config: str | Path | Mapping[str, Any]
) -> Path:
    """Where the results go; runs/NAME-OF-THE-FILE when nobody says.

    Raises:
        UserError: when a file stands there.
    """
    name = "run" if isinstance(config, Mapping) else Path(config).stem
    folder = Path(asked or settings.output_dir or Path("runs") / name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for the results")
    return folder


@functools.cache
def count_compilations() -> list[float]:
    """A list that grows by the seconds of every compilation from now on."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds
