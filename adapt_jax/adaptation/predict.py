"""Answers unlabelled questions in bulk, from a file to a JSONL file; continues where it stopped."""

import glob
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader, Fields
from adapt_jax.tasks.fields.shapes import merge_rows
from adapt_jax.tasks.loading import load_question_format
from adapt_jax.tasks.question_format import QuestionFormat
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils import agreement, distributed, files
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.bucket_mirror import append_lines, mirror_file
from adapt_jax.utils.config import Strict
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.progress import OnProgress, Pace
from adapt_jax.utils.text_files import parse_json

__all__ = ["predict", "read_questions"]

Question = tuple[str, str, tuple[str, ...]]  # id, question, choices
FIRST_KEY = b'{"question"'  # how a line of answers begins


class _SavedVote(Strict):
    rule: str
    confidence: float | None
    counts: dict[str, float | None]
    abstained: NonNegativeInt
    repeats: NonNegativeInt


class _SavedCandidate(Strict):
    text: str
    reasoning: str
    answer: str | None
    log_probability: float | None
    finish_reason: str


class _AnswerLine(Strict):
    """A line of answers: Prediction.to_dict, the question, and what answered it."""

    question: str
    choices: list[str] = []
    id: str
    answer: str | None
    reasoning: str
    vote: _SavedVote
    candidates: list[_SavedCandidate]
    prompt_tokens: NonNegativeInt
    generated_tokens: NonNegativeInt
    candidates_saved: NonNegativeInt
    seconds: NonNegativeFloat
    too_long: bool
    prompt_sha256: str
    identity: str


def predict(
    open_adaptation: Callable[[], Adaptation],
    source: Path,
    target: Path,
    *,
    task: str | Path | Mapping[str, Any] | None = None,
    question_format: QuestionFormat | None = None,
    seed: int = 0,
    max_concurrent_sequences: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[int, int]:
    """Answers every question of ``source`` that ``target`` has no answer to.

    Answers are appended as they come; when all are there, they are put in the order of the
    questions. So an interrupted run that is started again ends with the file of one that was not,
    except for the ``seconds``. Answers to other questions that ``target`` had come first. The
    ``identity`` of each line stands for the adaptation and the seed that gave it.

    Several processes call it together: each answers its share, and process 0 writes the file.

    Args:
        open_adaptation: opens the adaptation, after both files have been checked.
        source: JSONL, JSON, CSV, TSV or Parquet; see ``read_questions``.
        task: a task file or its content, by whose fields ``source`` is read.
        question_format: that of the adaptation; see ``read_questions``.

    Returns:
        how many questions were answered, and how many an earlier run had answered.

    Raises:
        UserError: naming file and line of what is no question, no answer, or an answer of another
            adaptation or seed; the file cannot be written, or the disk is full.
    """
    source, target = to_path(source), to_path(target)
    examples = read_questions(source, task, question_format)
    _check_files(source, target)
    with mirror_file(target) as local:
        return _predict(
            open_adaptation, examples, local, seed, max_concurrent_sequences, on_progress
        )


def _predict(
    open_adaptation: Callable[[], Adaptation],
    examples: Sequence[Example],
    target: Path,
    seed: int,
    max_concurrent_sequences: int | None,
    on_progress: OnProgress | None,
) -> tuple[int, int]:
    """See ``predict``; the target is on this machine."""
    lines, first_lines = _read_together(target)
    questions = [(one.id, one.question, one.choices) for one in examples]
    known = {index for index, question in enumerate(questions) if question in lines}
    adaptation = open_adaptation()
    answered_by = _identify(adaptation, seed, examples)
    _check_answered_by(answered_by, first_lines, target)

    # of several processes each answers its share, and process 0 writes all of them
    missing = [index for index in range(len(examples)) if index not in known]
    own = distributed.take_share(missing)
    pace = Pace(on_progress, len(known), len(known) + len(own))
    with append_lines(_choose_own_file(target)) as append, distributed.share_questions():
        stream = adaptation.stream(
            examples,
            seed=seed,
            max_concurrent_sequences=max_concurrent_sequences,
            answered=known | (set(missing) - own),
            on_tokens=pace.count_tokens,
        )
        new = [
            (index, _append_answer(append, examples[index], prediction, answered_by, pace))
            for index, prediction in stream
        ]
    _write_together(target, lines, new, questions)
    return len(missing), len(known)


def _identify(adaptation: Adaptation, seed: int, examples: Sequence[Example]) -> str:
    """Stands for the adaptation and the seed; all processes answer the same questions with them."""
    answered_by = identity(adaptation.identity, seed)
    if distributed.num_processes() > 1:
        agreement.agree("input", {"questions": identity(examples), "answered by": answered_by})
    return answered_by


def _append_answer(
    append: Callable[[str], None],
    example: Example,
    prediction: Prediction,
    answered_by: str,
    pace: Pace,
) -> str:
    """Appends the line of an answer, and returns it."""
    line = _to_line(example, prediction, answered_by)
    append(line)
    pace.count_answer()
    return line


def _check_files(source: Path, target: Path) -> None:
    """Raises UserError where the answers cannot be written, or would replace the questions."""
    files.check_target_file(target)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: is the input; expected another file for the answers")


def _write_together(
    target: Path,
    lines: Mapping[Question, str],
    new: Sequence[tuple[int, str]],
    questions: Sequence[Question],
) -> None:
    """Writes the answers of all processes in the order of the questions; their own files then go.

    Args:
        lines: answers that were there before.
        new: of this process: index of the question, and the line of its answer.
    """

    def write() -> None:
        ordered = _order_lines({**lines, **found}, questions)
        files.write_text(target, "".join(f"{line}\n" for line in ordered))
        for part in _list_parts(target):
            part.unlink(missing_ok=True)

    gathered = distributed.gather("answers", list(new))
    found = {questions[index]: line for one in gathered for index, line in one}
    agreement.run_on_main("answers written", write)


def _choose_own_file(target: Path) -> Path:
    """Where this process appends its answers: process 0 to the target, others beside it."""
    index = distributed.process_index()
    return target.with_name(f"{target.name}.process-{index}") if index else target


def _list_parts(target: Path) -> list[Path]:
    """The files of processes other than process 0."""
    return sorted(target.parent.glob(f"{glob.escape(target.name)}.process-*"))


def _list_by_question(lines: Iterable[str]) -> dict[Question, str]:
    rows = ((json.loads(line), line) for line in lines)
    return {(row["id"], row["question"], tuple(row.get("choices", ()))): line for row, line in rows}


def _read_together(target: Path) -> tuple[dict[Question, str], dict[str, int]]:
    """What an earlier run, of any number of processes, has answered; see ``_read_answers``."""

    def read() -> list[Any]:
        lines: dict[Question, str] = {}
        first_lines: dict[str, int] = {}
        for path in (target, *_list_parts(target)):
            there, first = _read_answers(path)
            lines, first_lines = lines | there, first | first_lines
        return [list(lines.values()), first_lines]

    if distributed.num_processes() == 1 and not _list_parts(target):
        return _read_answers(target)
    lines, first_lines = agreement.run_on_main("answers read", read)
    return _list_by_question(lines), first_lines


def _check_answered_by(answered_by: str, first_lines: Mapping[str, int], target: Path) -> None:
    """Raises UserError where an earlier run had another adaptation or another seed."""
    for other, number in first_lines.items():
        if other != answered_by:
            raise UserError(
                f"{target}, line {number}: answered by another adaptation, or with another seed; "
                "choose another file"
            )


def _order_lines(lines: Mapping[Question, str], questions: Sequence[Question]) -> list[str]:
    """Answers to other questions first, then those to ``questions``, in their order."""
    asked = set(questions)
    others = [line for question, line in lines.items() if question not in asked]
    return others + [lines[question] for question in questions]


def _to_line(example: Example, prediction: Prediction, answered_by: str) -> str:
    row: dict[str, Any] = {"question": example.question}
    row |= {"choices": example.choices} if example.choices else {}
    row |= prediction.to_dict() | {"identity": answered_by}
    return files.to_json_lines([row]).rstrip("\n")


def read_questions(
    path: Path,
    task: str | Path | Mapping[str, Any] | None = None,
    question_format: QuestionFormat | None = None,
) -> list[Example]:
    """The unlabelled questions of a file.

    Without a task a row has a ``question``, and may have ``choices`` (a list) and an ``id``; by
    default its id is the number of its line or record.

    Args:
        task: whose fields, fixed choices and file options say how the file is read. Ids are those
            that the task gives, so that the answers are those of an evaluation.
        question_format: in the place of a task, for files that have its fields.

    Raises:
        UserError: naming the line of a row without a question, or with an id that occurs twice.
    """
    if task is not None:
        wanted = load_question_format(task)
        rows = read_rows(path, wanted.file_options)
        read: Callable[[Row], Example] = wanted.read
    else:
        rows, read = _read_by_columns(path, question_format)
    examples, seen = list[Example](), set[str]()
    for row in rows:
        example = read(row)
        if example.id in seen:
            raise UserError(f"{row.where}: the id {example.id!r:.80} occurs in an earlier line too")
        seen.add(example.id)
        examples.append(example)
    if not examples:
        raise UserError(f"{path}: holds no question")
    return examples


def _read_by_columns(
    path: Path, question_format: QuestionFormat | None
) -> tuple[list[Row], Callable[[Row], Example]]:
    """The rows of a file, and what reads them: the format if they have its fields."""
    if question_format is None:
        return _name_lines(read_rows(path)), _read_plain_question
    try:
        rows = read_rows(path, question_format.file_options)
    except UserError:  # another form of file than the task's
        rows = []
    if not rows or not question_format.suits(merge_rows(rows).values):
        rows = read_rows(path)
    if not rows or question_format.suits(merge_rows(rows).values):
        return rows, lambda row: question_format.with_columns_of(row.values).read(row)
    rows = _name_lines(rows)
    if "question" not in rows[0].values:
        columns = display_text(", ".join(question_format.list_columns()), 200)
        has = display_text(", ".join(rows[0].values), 200) or "nothing"
        raise UserError(
            f"{rows[0].where}: no field 'question', nor the fields of the adaptation's task "
            f"({columns}); it has: {has}"
        )
    return rows, _read_plain_question


def _name_lines(rows: list[Row]) -> list[Row]:
    """The rows; where all are lines of text, these are the questions."""
    if any(list(row.values) != ["text"] for row in rows):
        return rows
    return [replace(row, values={"question": row.values["text"]}) for row in rows]


def _read_plain_question(row: Row) -> Example:
    """A question of a file that no task describes."""
    if row.values.get("question") in (None, ""):
        has = display_text(", ".join(row.values), 200) or "nothing"
        raise UserError(f"{row.where}: no text in field 'question'; it has: {has}")
    choices = row.values.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise UserError(f"{row.where}: 'choices' is no list: {choices!r:.100}")
    has_id = row.values.get("id") not in (None, "")
    fields = Fields(choices="choices" if choices else None, id="id" if has_id else None)
    example = ExampleReader(fields, "text").read_question(row)
    return (
        example if has_id else Example(str(row.number), example.question, choices=example.choices)
    )


def _read_answers(path: Path) -> tuple[dict[Question, str], dict[str, int]]:
    """The lines of an earlier run by their questions, without a last line that was cut off.

    Returns:
        the lines; and the number of the first line of each ``identity``.

    Raises:
        UserError: naming the line, if the file holds something else.
    """
    lines: dict[Question, str] = {}
    first_lines: dict[str, int] = {}
    if not path.exists():
        return lines, first_lines
    whole, _, rest = path.read_bytes().rpartition(b"\n")  # a cut may go through a character
    for number, content in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            line = content.decode("utf-8")
            row = _AnswerLine.model_validate(parse_json(line, str(path), line=number))
            first_lines.setdefault(row.identity, number)
            lines[row.id, row.question, tuple(row.choices)] = line
        except (UserError, ValueError):
            raise UserError(
                f"{path}, line {number}: not an answer of an earlier run; choose another file"
            ) from None
    if rest and not lines and not FIRST_KEY.startswith(rest[: len(FIRST_KEY)]):
        raise UserError(f"{path}: not the answers of an earlier run; choose another file")
    return lines, first_lines
