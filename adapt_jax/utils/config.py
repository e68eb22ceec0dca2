"""Typed run configuration: a YAML file, with overrides from the command line.

An override names a key by its path, ``--task.seed 7``, and its value is read as YAML. Whatever is
wrong is reported in one line that names the file, the key and the nearest valid key.
"""

import copy
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from adapt_jax.utils import text_files
from adapt_jax.utils.bucket import is_address, to_path
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError, nearest

__all__ = [
    "MAX_SEED",
    "CompareConfig",
    "MeshConfig",
    "Overrides",
    "RunConfig",
    "Strict",
    "TaskPlace",
    "TuneConfig",
    "find_decoder",
    "find_path",
    "load_config",
    "override",
    "read_yaml",
    "validate",
]

Model = TypeVar("Model", bound=BaseModel)
MAX_PATH = 1000  # characters of a text that may name a file
MAX_SEED = 2**32 - 1  # of NumPy's, Grain's and JAX's generators alike
Overrides = Mapping[str, Any]  # {"task.seed": 7}


class Strict(BaseModel):
    """A part of a configuration; a key that it does not know is an error.

    Attributes:
        no_effect: names of fields that change no result, which identities leave out.
    """

    no_effect: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        """Keys that a nested part leaves out have the default of this field, not of their type.

        So ``lora: {training: {steps: 50}}`` keeps the learning rate of LoRA.
        """
        if not isinstance(values, Mapping):
            return values
        kept = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel) and isinstance(values.get(name), Mapping):
                kept[name] = {**field.default.model_dump(exclude_unset=True), **values[name]}
        return kept


class MeshConfig(Strict):
    """Devices along each axis of the mesh; -1 takes whatever is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


class RunConfig(Strict):
    """The keys of every run: a decoder, a task, a seed, a place for the results."""

    decoder: str = Field(
        "embedded", description="a Hugging Face folder, a GGUF file, or `embedded`"
    )
    task: str | dict[str, Any] = Field(description="a task file, or its contents")
    seed: int = Field(
        0, ge=0, le=MAX_SEED, description="of demonstrations, initialisation, order and sampling"
    )
    output_dir: str | None = Field(None, description="runs/NAME-OF-THE-FILE unless given")
    max_concurrent_sequences: PositiveInt | None = Field(
        None, description="sequences decoded side by side; null: what memory allows"
    )
    mesh: MeshConfig | None = Field(None, description="places the decoder on several devices")
    context_length: PositiveInt | None = Field(
        None, description="tokens of the longest text, where config.json is not to say it"
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="of the decoder's weights and of what is computed with them; null: float32 on "
        "a CPU, elsewhere that of the decoder's own files",
    )


class CompareConfig(RunConfig):
    """The rungs of a comparison and their options; a rung set to null is left out."""

    methods: dict[str, dict[str, Any] | None]
    methods_subset: list[str] | str | None = Field(
        None, description="run these rungs and no others"
    )
    reference: str | None = Field(
        None,
        description="the rung that those above it are compared with, besides the one just below; "
        "null: the highest rung below that trains nothing",
    )
    seeds: list[Annotated[int, Field(ge=0, le=MAX_SEED)]] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="runs each rung that depends on a seed once with each of these, instead of "
        "`seed`, and compares the means",
    )

    @model_validator(mode="after")
    def _check_seeds(self) -> "CompareConfig":
        if self.seeds is None:
            return self
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} names a seed twice")
        if "seed" in self.model_fields_set and self.seed != self.seeds[0]:
            raise ValueError(
                f"seeds begins with {self.seeds[0]}, but seed is {self.seed}: leave out seed, or "
                f"set it to {self.seeds[0]}"
            )
        self.seed = self.seeds[0]
        return self


class TuneConfig(RunConfig):
    """One rung: ``method`` is its name and its options."""

    method: dict[str, Any]


class SearchConfig(TuneConfig):
    """A search for demonstrations, their order and an instruction of one method."""

    max_questions: PositiveInt = Field(
        2000, description="development questions that may be asked, over all prompts"
    )
    candidates: int = Field(16, ge=2, le=10_000, description="prompts that are tried")
    orders: int = Field(
        4, ge=0, le=1000, description="other orders of the best demonstrations that are tried"
    )
    instructions: list[str] = Field(
        [], description="instructions that are tried besides the task's own"
    )
    alpha: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="level of the paired test by which a prompt leaves",
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: as ``text_files.read_yaml`` does, or where it holds no mapping.
    """
    content = text_files.read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def override(data: Mapping[str, Any], overrides: Overrides | None, where: str) -> dict[str, Any]:
    """A copy of the mapping with each dotted key set; string values are read as YAML.

    Raises:
        UserError: when a key goes through something that is not a mapping, or a value is no YAML.
    """
    result = copy.deepcopy(dict(data))
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        place = result
        for depth, name in enumerate(parents):
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
            if not isinstance(place, dict):
                path = ".".join(parents[: depth + 1])
                found = display_text(repr(place), 100)
                raise UserError(f"{where}: --{dotted}: {path} is {found}, it has no keys")
        if isinstance(value, str):
            read = text_files.parse_yaml(value, f"{where}: --{dotted}")
            if read is None and value.lstrip().startswith("#"):
                raise UserError(
                    f"{where}: --{dotted}: to YAML {value!r} is a comment; quote it twice"
                )
            value = read
        place[last] = value
    return result


def validate(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """The mapping as a pydantic model.

    Raises:
        UserError: one line for the first mistake: ``where``, the key, what was expected.
    """
    try:
        return model.model_validate(dict(data))
    except pydantic.ValidationError as problem:
        first, *others = problem.errors()
        same = [error for error in others if error["loc"][:1] == first["loc"][:1]]
        error = max([first, *same], key=lambda error: len(error["loc"]))  # of a union: the nearest
        is_missing = error["type"] == "missing"
        *parents, last = location = _drop_union_names(error["loc"], data, is_missing) or [""]
        key = ".".join(location)
        if error["type"] == "extra_forbidden":
            names = _list_keys(model, parents)
            hint = nearest(last, names) or f"; valid keys: {', '.join(names)}"
            raise UserError(f"{where}: unknown key {display_text(repr(key), 100)}{hint}") from None
        if is_missing:
            raise UserError(f"{where}: the key {key!r} is missing") from None
        message = error["msg"].removeprefix("Value error, ")
        given = error.get("input")
        subject = f"{key}: " if key else ""
        found = f", found {display_text(repr(given), 100)}" if not isinstance(given, dict) else ""
        if error["type"] == "literal_error" and isinstance(given, str):
            found += nearest(given, re.findall("'([^']+)'", error["ctx"]["expected"]))
        raise UserError(f"{where}: {subject}{message}{found}") from None


def _drop_union_names(location: Sequence[str | int], data: Any, is_missing: bool) -> list[str]:
    """A location without the names of a union's members, which pydantic puts in."""
    keys: list[str] = []
    last = len(location) - 1
    for at, part in enumerate(location):
        if isinstance(data, Mapping) and (part in data or (is_missing and at == last)):
            keys, data = [*keys, str(part)], data.get(part)
        elif isinstance(data, Sequence) and isinstance(part, int) and part < len(data):
            keys, data = [*keys, str(part)], data[part]
    return keys


def _list_keys(model: Any, parents: Sequence[str]) -> list[str]:
    """The names of the fields of a model, or of the model nested in it under ``parents``."""
    for name in parents:
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:
            continue  # pydantic also puts the name of a union's member into the location
        inner = [field.annotation, *typing.get_args(field.annotation)]
        model = next((t for t in inner if hasattr(t, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def find_path(path: str, folder: Path) -> Path:
    """A path written in a configuration: beside that file, or else from the current folder.

    Where neither is there it is the first one, so that whoever reads it names its neighbours.
    """
    if is_address(path):
        return to_path(path)
    from_here = os.path.expanduser(path)
    beside = Path(from_here) if os.path.isabs(from_here) else folder / from_here
    return Path(from_here) if os.path.exists(from_here) and not _exists(beside) else beside


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder; False for what is no path at all."""
    return path.exists() if is_address(path) else os.path.exists(path)


def find_decoder(name: str, folder: Path) -> str:
    """The folder or file of a decoder as ``find_path`` finds it, or else the name as written."""
    found = find_path(name, folder)
    return str(found) if _exists(found) else name


class TaskPlace(NamedTuple):
    """The folder of a task's own paths, and what messages call the task: its file."""

    folder: Path
    name: str


def load_config(
    model: type[Model], config: str | Path | Mapping[str, Any], overrides: Overrides | None = None
) -> tuple[Model, str, TaskPlace]:
    """Reads a run configuration.

    A task that is named by its file is read in, so that ``--task.seed`` can override it; its
    relative paths, the decoder's and those of methods too, are looked up beside the file that names
    them.

    Returns:
        the configuration, what to call it in messages, and the place of its task.

    Raises:
        UserError: naming the file and the key.
    """
    if isinstance(config, Mapping):
        data, where, folder = dict(config), "config", Path(".")
    else:
        data, where, folder = read_yaml(config), str(config), to_path(config).parent
    task_name = f"{where}: task"
    overrides = dict(overrides or {})
    if "task" in overrides:  # another task altogether: its path is the user's, from where they are
        data["task"], folder_of_task = overrides.pop("task"), Path(".")
    else:
        folder_of_task = folder
    if isinstance(data.get("task"), str):
        path = find_path(data["task"], folder_of_task)
        data["task"], folder_of_task, task_name = read_yaml(path), path.parent, str(path)
    if "decoder" not in overrides and isinstance(data.get("decoder"), str):
        data["decoder"] = find_decoder(data["decoder"], folder)
    for key in ("methods", "method"):
        if key in data:
            data[key] = _find_files(data[key], folder)
    _keep_template_fields(data.get("task"), overrides)
    result = validate(model, override(data, overrides, where), where)
    return result, where, TaskPlace(folder_of_task, task_name)


def _find_files(value: Any, folder: Path) -> Any:
    """The options of methods, in which names of files are found as ``find_path`` finds them.

    A text with a suffix, such as ``tasks/own.yaml``, names a file where there is one.
    """
    match value:
        case str() if re.search(r"\w\.\w+$", value) and len(value) < MAX_PATH:
            found = find_path(value, folder)
            is_file = _exists(found) and not os.path.isdir(found)
            return str(found) if is_file else value
        case dict():
            return {key: _find_files(one, folder) for key, one in value.items()}
        case list():
            return [_find_files(one, folder) for one in value]
    return value


def _keep_template_fields(task: Any, overrides: dict[str, Any]) -> None:
    """Lets ``--task.template chat`` change the kind of template and keep the task's own wording.

    A task whose template says ``choice: ""`` asks the same question in both kinds.
    """
    kind, own = overrides.get("task.template"), isinstance(task, dict) and task.get("template")
    if kind in ("plain", "chat") and isinstance(own, dict):
        del overrides["task.template"]
        overrides.setdefault("task.template.chat", "true" if kind == "chat" else "false")
