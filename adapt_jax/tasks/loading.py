"""A task file, such as those in ``configs/tasks``, as a Task."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapt_jax.tasks.answers import read_gold
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader
from adapt_jax.tasks.fields.row_fields import check_row_fields
from adapt_jax.tasks.loading_rows import ExamplesRead, read_examples
from adapt_jax.tasks.question_format import QuestionFormat
from adapt_jax.tasks.sources import SPLITS, Rows, Sizes
from adapt_jax.tasks.sources.rows import FileOptions
from adapt_jax.tasks.splits import check_ids, divide, resolve_overlaps
from adapt_jax.tasks.summary import DataSummary, count_conflicts, summarize_split
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.task_config import (
    TaskConfig,
    check_tolerance,
    find_rows,
    find_shape_of_source,
    read_fixed_choices,
    read_settings,
)
from adapt_jax.tasks.templates.loading import check_templates, load_template, load_templates
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError

__all__ = ["load_question_format", "load_task"]

MAX_STRATA = 200  # distinct answers that count as labels where a task names no choices


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
    settings, folder, where = read_settings(config, folder, name)
    template, warnings = load_template(settings.template, where)
    templates = load_templates(settings.templates, template, where)
    row_fields = frozenset[str]().union(*(one.row_fields for one in (template, *templates)))
    data = _read_data(settings, row_fields, folder, where)
    settings, reader, read = data.settings, data.reader, data.read
    divided = _divide(data, where)
    instruction = settings.instruction.replace("{choices}", ", ".join(reader.choices))
    check_templates((template, *templates), instruction, divided.splits, where)
    summary = _summarize(data, divided)
    irregularities = _describe_irregularities(summary, read.repeated)
    from_files = any(read.places.values())
    return Task(
        settings.name,
        **divided.splits,
        instruction=instruction,
        template=template,
        templates=templates,
        parser=settings.answer_parser,
        source=settings.source_name,
        seed=settings.seed,
        scorer=settings.scorer,
        relative_tolerance=settings.relative_tolerance,
        absolute_tolerance=settings.absolute_tolerance,
        warnings=(*warnings, *divided.overlaps, *irregularities),
        summary=summary,
        question_format=_make_question_format(settings, reader, where) if from_files else None,
    )


class _Data(NamedTuple):
    """What a task's source holds.

    Attributes:
        settings: the task file, with the fields and the answer parser of the rows' shape.
        rows: of each split, as the source gives them.
        shape: of the rows, in words.
        reader: makes examples of rows.
        read: the examples.
    """

    settings: TaskConfig
    rows: Rows
    shape: str
    reader: ExampleReader
    read: ExamplesRead


def _read_data(
    settings: TaskConfig, row_fields: Collection[str], folder: Path, where: str
) -> _Data:
    """Reads the rows of a task's source, and makes examples of them."""
    # find the rows
    with _naming_task(where):
        settings, rows, shape = find_rows(settings, folder)
    check_tolerance(settings, where)
    reader = _make_reader(settings, row_fields, folder, where)

    # read them
    sizes: Sizes = settings.splits.model_dump()
    with _naming_task(where):
        read = read_examples(reader, rows, sizes, settings.seed, settings.skip_missing)
    if row_fields:
        check_row_fields(row_fields, reader.hidden_fields, read.columns, where)
    if settings.answer_parser == "label" and not reader.choices:
        _check_labels(read.examples, where)
    check_ids(read.examples, read.places, where)
    return _Data(settings, rows, shape, reader, read)


class _Divided(NamedTuple):
    """The examples of each split; what is said about questions that were in two of them; and how
    many of these were dropped."""

    splits: dict[str, list[Example]]
    overlaps: Sequence[str]
    dropped: int


def _divide(data: _Data, where: str) -> _Divided:
    """Divides the examples into splits, with those that the task file holds."""
    settings, reader, read = data.settings, data.reader, data.read
    sizes: Sizes = settings.splits.model_dump()
    stratified = _has_labels(settings, reader.choices, read.examples)
    splits = divide(read.examples, sizes, settings.seed, stratified, where)
    splits["train"] = reader.read_inline(settings.inline_examples) + splits["train"]
    before = sum(map(len, splits.values()))
    allowed = settings.allow_overlap
    overlaps = resolve_overlaps(splits, read.examples, allowed, read.places, where)
    check_ids(splits, read.places, where)
    _check_splits(splits, sizes, data.rows, overlaps, where)
    return _Divided(splits, overlaps, before - sum(map(len, splits.values())))


def _summarize(data: _Data, divided: _Divided) -> DataSummary:
    read = data.read
    return DataSummary(
        rows=read.rows,
        skipped=read.skipped + read.repeated,
        not_kept=read.not_kept,
        conflicts=count_conflicts(read.examples),
        dropped=divided.dropped,
        shape=data.shape,
        splits={split: summarize_split(divided.splits[split]) for split in SPLITS},
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


def load_question_format(config: str | Path | Mapping[str, Any]) -> QuestionFormat:
    """How a task reads rows and files, for questions that are not in the task itself.

    Raises:
        UserError: as ``load_task``.
    """
    settings, folder, where = read_settings(config)
    settings = find_shape_of_source(settings, folder)
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
        choices=read_fixed_choices(settings.choices, folder, where),
        answer_index=settings.answer_index,
        patterns=patterns,
        row_fields=row_fields,
        where=where,
    )


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
    if settings.answer_parser in ("number", "decimal_comma") or settings.fields.choices:
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
