"""A task file, such as those in ``configs/tasks``, as a Task."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from adapt_jax.tasks.answers import PARSERS, find_parser, read_gold, shorten_parser_name
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields import ExampleReader, Fields, InlineExample, Text
from adapt_jax.tasks.loading_rows import read_examples
from adapt_jax.tasks.question_format import QuestionFormat
from adapt_jax.tasks.readers import FileOptions, find_duplicate
from adapt_jax.tasks.row_fields import check_row_fields
from adapt_jax.tasks.schema_parser import load_parser
from adapt_jax.tasks.shapes import detect_shape, guess_parser, peek_rows
from adapt_jax.tasks.sources import (
    SOURCES,
    SPLITS,
    Row,
    Rows,
    Sizes,
    SourceRequest,
    normalize_source,
)
from adapt_jax.tasks.splits import AllowOverlap, Splits, check_ids, divide, resolve_overlaps
from adapt_jax.tasks.summary import DataSummary, count_conflicts, summarize_split
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.template_loading import check_templates, load_template, load_templates
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.config import MAX_SEED, Strict, find_path, read_yaml, validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import read_json

__all__ = ["TaskConfig", "load_question_format", "load_task"]

MAX_STRATA = 200  # distinct answers that count as labels where a task names no choices


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


def load_task(
    config: str | Path | Mapping[str, Any],
    folder: str | Path | None = None,
    name: str | None = None,
) -> Task:
    """A task from its YAML file, or from the mapping such a file holds.

    Relative paths are looked for in ``folder`` (by default the file's own), then in the working
    directory. A test question that is in another split too is refused or dropped, see
    ``allow_overlap``.

    Args:
        name: what messages call the task; by default its file.

    Raises:
        UserError: naming the file and line or key, and what was expected there.
    """
    settings, folder, where = _read_settings(config, folder, name)
    assert isinstance(settings.source, dict)  # _read_settings has made it one
    source = settings.source["name"]
    template, warnings = load_template(settings.template, where)
    templates = load_templates(settings.templates, template, where)
    sizes: Sizes = settings.splits.model_dump()

    # find the rows
    options = {key: value for key, value in settings.source.items() if key != "name"}
    request = SourceRequest(options, folder, settings.seed, sizes, settings.fields.id or "id")
    with _naming_task(where):
        settings, rows, shape = _resolve_shape(settings, SOURCES[source](request))
    _check_tolerance(settings, where)
    row_fields = frozenset[str]().union(*(one.row_fields for one in (template, *templates)))
    reader = _make_reader(settings, row_fields, folder, where)

    # read them
    with _naming_task(where):
        read = read_examples(reader, rows, sizes, settings.seed, settings.skip_missing)
    examples = read.examples
    if row_fields:
        check_row_fields(row_fields, reader.hidden_fields, read.columns, where)
    if settings.answer_parser == "label" and not reader.choices:
        _check_labels(examples, where)

    check_ids(examples, read.places, where)

    # divide them
    stratified = _has_labels(settings, reader.choices, examples)
    divided = divide(examples, sizes, settings.seed, stratified, where)
    divided["train"] = reader.read_inline(settings.inline_examples) + divided["train"]
    before = sum(map(len, divided.values()))
    overlaps = resolve_overlaps(divided, examples, settings.allow_overlap, read.places, where)
    check_ids(divided, read.places, where)
    _check_splits(divided, sizes, rows, overlaps, where)
    instruction = settings.instruction.replace("{choices}", ", ".join(reader.choices))
    check_templates((template, *templates), instruction, divided, where)

    summary = DataSummary(
        rows=read.rows,
        skipped=read.skipped + read.repeated,
        not_kept=read.not_kept,
        conflicts=count_conflicts(examples),
        dropped=before - sum(map(len, divided.values())),
        shape=shape,
        splits={split: summarize_split(divided[split]) for split in SPLITS},
    )
    from_files = any(read.places.values())
    return Task(
        settings.name,
        **divided,
        instruction=instruction,
        template=template,
        templates=templates,
        parser=settings.answer_parser,
        source=source,
        seed=settings.seed,
        scorer=settings.scorer,
        relative_tolerance=settings.relative_tolerance,
        absolute_tolerance=settings.absolute_tolerance,
        warnings=(*warnings, *overlaps, *_describe_irregularities(summary, read.repeated)),
        summary=summary,
        question_format=_make_question_format(settings, reader, where) if from_files else None,
    )


@contextmanager
def _naming_task(where: str) -> Iterator[None]:
    """Puts the task's file before messages of sources, which begin with a key of the task."""
    try:
        yield
    except UserError as mistake:
        if str(mistake).startswith(("source:", "source.", "splits.")):
            raise UserError(f"{where}: {mistake}") from None
        raise


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
    shape = detect_shape(first[0])
    found: dict[str, Any] = {"fields": shape.fields}
    text = f"rows have the shape {shape.name}"
    if "answer_parser" not in settings.model_fields_set and shape.fields != Fields():
        found["answer_parser"] = guess_parser(shape.fields, first)
        text += f"; answers are read by {found['answer_parser']}"
    return settings.model_copy(update=found), rows, text


def _find_shape_of_source(settings: TaskConfig, folder: Path) -> TaskConfig:
    """The settings with the fields of the source's shape, where it is there and has one."""
    assert isinstance(settings.source, dict)
    if "fields" in settings.model_fields_set:
        return settings
    options = {key: value for key, value in settings.source.items() if key != "name"}
    sizes = settings.splits.model_dump()
    request = SourceRequest(options, folder, settings.seed, sizes, "id")
    try:
        return _resolve_shape(settings, SOURCES[settings.source["name"]](request))[0]
    except UserError:  # of a file that is not there; questions then have the default fields
        return settings


def load_question_format(config: str | Path | Mapping[str, Any]) -> QuestionFormat:
    """How a task reads rows and files, for questions that are not in the task itself.

    Raises:
        UserError: as ``load_task``.
    """
    settings, folder, where = _read_settings(config)
    settings = _find_shape_of_source(settings, folder)
    row_fields = load_template(settings.template, where)[0].row_fields
    reader = _make_reader(settings, row_fields, folder, where)
    return _make_question_format(settings, reader, where)


def _make_question_format(
    settings: TaskConfig, reader: ExampleReader, where: str
) -> QuestionFormat:
    assert isinstance(settings.source, dict)
    names = FileOptions.model_fields.keys() & settings.source.keys()
    given = {name: settings.source[name] for name in names}
    return QuestionFormat(
        name=settings.name,
        fields=settings.fields,
        choices=list(reader.choices),
        file_options=validate(FileOptions, given, f"{where}: source"),
        row_fields=sorted(reader.row_fields),
    )


def _read_settings(
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


def _check_tolerance(settings: TaskConfig, where: str) -> None:
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


def _make_reader(
    settings: TaskConfig, row_fields: Collection[str], folder: Path, where: str
) -> ExampleReader:
    patterns = {
        key: getattr(settings, key)
        for key in ("reasoning_pattern", "answer_pattern", "strip_pattern")
    }
    return ExampleReader(
        settings.fields,
        settings.answer_parser,
        name=settings.name,
        choices=_read_fixed_choices(settings.choices, folder, where),
        answer_index=settings.answer_index,
        patterns=patterns,
        row_fields=row_fields,
        where=where,
    )


def _read_fixed_choices(
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


def _check_labels(examples: Mapping[str, Sequence[Example]], where: str) -> None:
    """Raises UserError where two labels that are no choices would be graded as one."""
    seen: dict[str, str] = {}
    for split in examples.values():
        for example in split:
            for answer in example.accepted:
                canonical = read_gold("label", answer) or answer
                other = seen.setdefault(canonical, answer)
                if other != answer:
                    raise UserError(
                        f"{where}: the labels {other!r:.60} and {answer!r:.60} differ only in "
                        "letter case or punctuation; list the labels in `choices`"
                    )


def _has_labels(
    settings: TaskConfig, choices: Sequence[str], examples: Mapping[str, Sequence[Example]]
) -> bool:
    """Whether the answers are labels, by which a file can be divided in proportion."""
    if choices or settings.answer_parser in ("label", "yes_no"):
        return True
    if settings.answer_parser == "number" or settings.fields.choices:
        return False
    answers = [example.answer for split in examples.values() for example in split]
    return len(set(answers)) <= min(MAX_STRATA, len(answers) // 5)


def _check_splits(
    divided: Mapping[str, Sequence[Example]],
    sizes: Sizes,
    rows: Mapping[str, Any],
    overlaps: Sequence[str],
    where: str,
) -> None:
    """Raises UserError for a split that is wanted and empty."""
    for split in SPLITS:
        wanted = sizes[split] != 0 and (split in rows or sizes[split] is not None)
        if not divided[split] and (split == "test" or wanted):
            why = f" ({'; '.join(overlaps)})" if overlaps else ""
            raise UserError(f"{where}: the {split} split is empty{why}")


def _describe_irregularities(summary: DataSummary, repeated: int) -> list[str]:
    warnings = []
    if skipped := summary.skipped - repeated:
        warnings.append(f"{skipped} of {summary.rows} rows skipped: no question or no answer")
    if repeated:
        warnings.append(f"{repeated} of {summary.rows} rows skipped: a choice occurs twice")
    if summary.not_kept:
        warnings.append(
            f"{summary.rows - summary.not_kept:,} of {summary.rows:,} rows kept, by a hash of "
            "their content; splits.train: N keeps N for the training"
        )
    if summary.conflicts:
        warnings.append(f"{summary.conflicts} questions occur with different answers")
    return warnings
