"""Set-up that compare and tune share: task, decoder, methods and output folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from pydantic import BaseModel

from adapt_jax.decoders.sharding import choose_mesh
from adapt_jax.evaluation.scorers import find_scorer
from adapt_jax.methods.base import Method
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.hf_folder import find_cached_folder
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import resolve_template
from adapt_jax.sampling.model import load_pretrained
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.utils.agreement import agree
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.compilations import use_compilation_cache
from adapt_jax.utils.config import CompareConfig, RunConfig, TaskPlace, validate
from adapt_jax.utils.distributed import num_processes
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import check_output_folder
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.progress import Display

__all__ = [
    "RunInputs",
    "agree_on",
    "choose_methods",
    "choose_output_folder",
    "load_inputs",
    "report_task",
]


@dataclass(frozen=True)
class RunInputs:
    """The inputs of every rung of a run.

    ``mesh`` is None on a single device. Several processes have one always: all their devices.
    """

    task: Task
    model: PretrainedDecoder
    mesh: Mesh | None


def load_inputs(settings: RunConfig, place: TaskPlace) -> RunInputs:
    """Loads the task, which is from this place, and the decoder of a run.

    Raises:
        UserError: one of them cannot be loaded, or they do not fit together.
    """
    use_compilation_cache()
    assert isinstance(settings.task, dict)  # load_config has read it in
    task = load_task(settings.task, place.folder, place.name)
    find_scorer(task, place.name)
    mesh = choose_mesh(settings.mesh)
    model = load_pretrained(
        settings.decoder,
        dtype=settings.dtype,
        mesh=mesh,
        context_length=settings.context_length,
    )
    _agree_on_inputs(task, model)
    return RunInputs(resolve_template(task, model), model, mesh)


def _agree_on_inputs(task: Task, model: PretrainedDecoder) -> None:
    """Checks that several processes have read the same task and decoder.

    Raises:
        UserError: they differ, such as copies of a folder on the disks of the hosts.
    """
    if num_processes() == 1:
        return
    folder = find_cached_folder(model.path)
    listed = [] if folder is None else [folder] if folder.is_file() else list(folder.iterdir())
    files = [one for one in listed if one.is_file()]
    agree("decoder file", {file.name: file.stat().st_size for file in files})
    agree("input", {"task": identity(task), "decoder": model.identity})


def agree_on(settings: BaseModel, command: str) -> None:
    """Checks that several processes were started with the same command and configuration.

    Raises:
        UserError: they differ; the keys are named.
    """
    if num_processes() == 1:
        return
    versions = {"adapt_jax": version("adapt-jax"), "jax": version("jax")}
    agree("version", versions)
    agree("configuration", {"command": command, **settings.model_dump(mode="json")})


def report_task(task: Task, display: Display) -> None:
    """Prints what was read of the task's data, and what was left out or looks wrong."""
    lines = [] if task.summary is None else task.summary.describe_splits()
    for line in [*lines, *task.warnings]:
        display.line(f"{task.name}: {line}")


def choose_methods(settings: CompareConfig, where: str) -> dict[str, Method]:
    """The rungs to climb, in the ladder's order, with their options checked.

    Raises:
        UserError: an unknown method or option, a rung that is both asked for and left out, or no
            rung at all; ``where`` begins the message.
    """
    subset = settings.methods_subset
    names = [part.strip() for part in subset.split(",")] if isinstance(subset, str) else subset
    for name in [*settings.methods, *(names or ()), *filter(None, [settings.reference])]:
        METHODS.find(name, f"{where}: methods")
    options = dict(settings.methods)
    if names:
        for name in names:
            if name in options and options[name] is None:
                raise UserError(
                    f"{where}: methods_subset asks for {name}, and methods.{name} is null, which "
                    "leaves it out"
                )
        # a rung that the file does not list runs with its defaults
        options = {name: options.get(name, {}) for name in names}
    methods = {
        name: validate(method, options[name] or {}, f"{where}: methods.{name}")
        for name, method in METHODS.items()
        if options.get(name) is not None
    }
    if not methods:
        raise UserError(f"{where}: methods: no rung to climb; the rungs are {', '.join(METHODS)}")
    return methods


def choose_output_folder(
    asked: str | Path | None, settings: RunConfig, config: str | Path | Mapping[str, Any]
) -> Path:
    """Where the results go; by default runs/NAME-OF-THE-CONFIG.

    Raises:
        UserError: a file is there, or the folder cannot be written.
    """
    name = "run" if isinstance(config, Mapping) else Path(config).stem
    folder = to_path(asked or settings.output_dir or Path("runs") / name)
    check_output_folder(folder)
    return folder
