"""The content of a task file: its keys, and what they are where it does not give them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from adapt_jax.tasks.answers import PARSERS, find_parser, shorten_parser_name
from adapt_jax.tasks.answers.schema_parser import load_parser
from adapt_jax.tasks.fields.example_reader import Fields, InlineExample, Text
from adapt_jax.tasks.fields.shapes import detect_shape, guess_parser, merge_rows, peek_rows
from adapt_jax.tasks.sources import SOURCES, Row, Rows, SourceRequest, normalize_source
from adapt_jax.tasks.sources.rows import find_duplicate
from adapt_jax.tasks.splits import AllowOverlap, Splits
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.config import MAX_SEED, Strict, find_path, read_yaml, validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import read_json

__all__ = [
    "TaskConfig",
    "check_tolerance",
    "find_rows",
    "find_shape_of_source",
    "read_fixed_choices",
    "read_settings",
]


class TaskConfig(Strict):
    """The content of a task file.

    Attributes:
        source: ``name`` (one of ``sources.SOURCES``) and that source's own options; without a name
            the form of a file is found. A text is short for ``{path: TEXT}``.
        template: ``plain``; ``chat``, the decoder's own chat template; or fields of Template that
            are worded otherwise (of the chat's, where ``chat: true`` is among them).
        templates: further templates, of which instruction tuning draws one for each example: what
            each words otherwise than ``template``.
        choices: fixed choices of every question: a list, or a JSON file that holds one;
            ``{choices}`` in the instruction names them all.
        answer_parser: name of the answer parser, or ``{name: json_schema, schema, field}``.
        answer_index: the number of the first choice, 0 or 1, where answers are indices of
            choices; ``none`` where they are texts though they look like indices.
        reasoning_pattern, answer_pattern: expressions with one group that cut the reasoning and
            the answer out of their fields (both out of the answer's, where reasoning has none).
        strip_pattern: expression whose matches are removed from the reasoning.
        inline_examples: examples written here, first in the training split.
        allow_overlap: whether test questions may be in a training or development split that has a
            file of its own, and among inline examples: ``true`` keeps them there, ``drop`` drops
            them there; by default they are refused.
        skip_missing: whether rows without a question or an answer, or with a choice twice, are left
            out; by default they are refused.
        relative_tolerance: how much a number may differ from the gold answer, as a share of it; 0
            is exact, 1e-3 is what others use.
        absolute_tolerance: how much it may differ in itself; one of the two is enough.
        scorer: name of the scorer.
        seed: decides which examples of a file go to which split.
    """

    name: Text
    source: dict[str, Any] | str | list[str]
    fields: Fields = Fields()
    instruction: str = ""
    template: dict[str, str | list[str] | bool | dict[str, Any]] | str = {}
    templates: list[dict[str, str] | str] = []
    choices: list[Text] | str | None = None
    answer_parser: str = "number"
    answer_index: Literal[0, 1, "none"] | None = None
    reasoning_pattern: str | None = None
    answer_pattern: str | None = None
    strip_pattern: str | None = None
    inline_examples: list[InlineExample] = []
    allow_overlap: AllowOverlap = False
    skip_missing: bool = False
    splits: Splits = Splits()
    relative_tolerance: float = Field(0.0, ge=0, lt=1)
    absolute_tolerance: float = Field(0.0, ge=0, lt=math.inf)
    scorer: str = "exact"
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @property
    def source_name(self) -> str:
        """The name of the source, which ``read_settings`` finds where the file gives none."""
        assert isinstance(self.source, dict)
        return str(self.source["name"])


def read_settings(
    config: str | Path | Mapping[str, Any],
    folder: str | Path | None = None,
    name: str | None = None,
) -> tuple[TaskConfig, Path, str]:
    """The content of a task file, the folder of its relative paths, and its name in messages.

    Raises:
        UserError: a wrong key, or an unknown source or answer parser.
    """
    where = name or "task"
    if not isinstance(config, Mapping):
        where, folder = name or str(config), folder or to_path(config).parent
        config = read_yaml(config)
    folder = to_path(folder or ".")
    if isinstance(parser := config.get("answer_parser"), Mapping):
        config = {**config, "answer_parser": load_parser(parser, folder, where)}
    settings = validate(TaskConfig, config, where)
    source = normalize_source(settings.source, where, folder)
    SOURCES.find(str(source["name"]), f"{where}: source.name")
    PARSERS.find(settings.answer_parser, f"{where}: answer_parser")
    return settings.model_copy(update={"source": source}), folder, where


def find_rows(settings: TaskConfig, folder: Path) -> tuple[TaskConfig, Rows, str]:
    """The rows of a task's source.

    Returns:
        the settings, with fields and answer parser by the rows' shape where they are not given; the
        rows of each split; their shape in words.

    Raises:
        UserError: the source has no such rows, or they have no known shape.
    """
    assert isinstance(settings.source, dict)  # read_settings has made it one
    options = {key: value for key, value in settings.source.items() if key != "name"}
    sizes, id_field = settings.splits.model_dump(), settings.fields.id or "id"
    request = SourceRequest(options, folder, settings.seed, sizes, id_field)
    return _resolve_shape(settings, SOURCES[settings.source_name](request))


def _resolve_shape(settings: TaskConfig, rows: Rows) -> tuple[TaskConfig, Rows, str]:
    """The fields and the answer parser of a task file that does not give them.

    Returns:
        the settings with them, all rows, and what was found in words.

    Raises:
        UserError: the rows have no known shape, or several.
    """
    if "fields" in settings.model_fields_set or not rows:
        return settings, rows, ""
    split = next(iter(rows))
    first, every = peek_rows(rows[split])
    rows = {**rows, split: every}
    if not first or not all(isinstance(row, Row) for row in first):
        return settings, rows, ""
    shape = detect_shape(merge_rows(first))
    found: dict[str, Any] = {"fields": shape.fields}
    text = f"rows have the shape {shape.name}"
    if "answer_parser" not in settings.model_fields_set and shape.fields != Fields():
        found["answer_parser"] = guess_parser(shape.fields, first)
        text += f"; answers are read by {found['answer_parser']}"
    return settings.model_copy(update=found), rows, text


def find_shape_of_source(settings: TaskConfig, folder: Path) -> TaskConfig:
    """The settings with the fields of the source's shape, where it is there and has one."""
    if "fields" in settings.model_fields_set:
        return settings
    try:
        return find_rows(settings, folder)[0]
    except UserError:  # of a file that is not there; questions then have the default fields
        return settings


def check_tolerance(settings: TaskConfig, where: str) -> None:
    """Raises UserError for a tolerance that would have no effect."""
    if find_parser(settings.answer_parser).has_tolerance:
        return
    for key in ("relative_tolerance", "absolute_tolerance"):
        if getattr(settings, key):
            raise UserError(
                f"{where}: {key}: the answer parser "
                f"{shorten_parser_name(settings.answer_parser)!r} compares texts, which are equal "
                "or not; number and math have a tolerance"
            )


def read_fixed_choices(
    choices: list[str] | str | None, folder: Path, where: str
) -> tuple[str, ...]:
    """The choices of every question, of the task file or of a JSON file.

    Raises:
        UserError: the file holds no list of texts, there is one choice or none, or a choice is
            empty or occurs twice.
    """
    if choices is None:
        return ()
    if isinstance(choices, str):
        path = find_path(choices, folder)
        content, where = read_json(path, keep_number_text=True), str(path)
        if not isinstance(content, list) or not all(
            isinstance(one, str | int | float) and not isinstance(one, bool) for one in content
        ):
            raise UserError(f"{path}: expected a JSON list of choices")
        choices = [str(one) for one in content]
    listed = [choice.strip() for choice in choices]
    if len(listed) < 2:
        raise UserError(f"{where}: choices: expected two or more, found {len(listed)}")
    if "" in listed:
        raise UserError(f"{where}: choices: one is empty")
    if (twice := find_duplicate(listed)) is not None:
        raise UserError(f"{where}: choices: {twice!r:.80} occurs twice")
    return tuple(listed)
