"""A task file for data that nobody has described: fields, parser and template, with the reasons.

Each guess is tried on the first rows by the reader that will read the task, so what is guessed can
be read.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.answers.decimal_comma import has_decimal_comma
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader, Fields
from adapt_jax.tasks.fields.shapes import SHAPES
from adapt_jax.tasks.fields.values import is_scores
from adapt_jax.tasks.guessing.columns import (
    QUESTION_NAMES,
    QUESTION_PAIRS,
    REASONING_NAMES,
    Column,
    find_answers,
    find_choice_columns,
    find_named,
    list_columns,
)
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.errors import UserError

__all__ = ["Guess", "guess_task"]

MIN_READABLE = 0.9  # of the rows that a guess has to read
MAX_LABELS = 150
MAX_LABEL_LENGTH = 80  # characters
MAX_STATED_LENGTH = 40  # characters of a number with its unit, or of a date
MAX_SHORT_ANSWER = 80  # characters of a text that is one line
GSM8K = {
    "reasoning_pattern": r"^(.*?)\s*####",
    "answer_pattern": r"####\s*(.+)$",
    "strip_pattern": "<<[^>]*>>",
}
NUMERIC_LABELS = "label labels class category sentiment rating stars polarity".split()


@dataclass
class Guess:
    """What a data file seems to hold.

    Attributes:
        fields, parser: as in a task file.
        options: further keys of the task file, such as ``answer_index``.
        labels: all labels, where answers are labels.
        reasons: by key of the task file, why.
        examples: of the rows that can be read.
        unreadable: the first message of a row that cannot, and how many there are.
    """

    fields: dict[str, Any]
    parser: str
    options: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    unreadable: tuple[str, int] = ("", 0)


def guess_task(rows: Sequence[Row]) -> Guess:
    """The fields and the parser that read the rows.

    Raises:
        UserError: no column can be the question, or none the answer.
    """
    columns = list_columns(rows)
    choices, choice_labels = find_choice_columns(columns)
    guess = _guess_by_shape(rows, columns, choices)
    if guess is None:
        guess = _guess_by_names(rows, columns, choices, choice_labels)
    _add_reasoning(guess, rows, columns)
    _add_id_and_category(guess, columns)
    _read_all(guess, rows)
    return guess


def _guess_by_shape(rows: Sequence[Row], columns: Sequence[Column], choices: Any) -> Guess | None:
    """A guess by a known shape of rows without choices."""
    fitting = [shape for shape in SHAPES[1:] if shape.fits(rows[0].values)]
    fitting = [one for one in fitting if not any(one.columns < other.columns for other in fitting)]
    if choices or len(fitting) != 1:
        return None
    fields = {
        name: value
        for name, value in fitting[0].fields.model_dump().items()
        if name in fitting[0].fields.model_fields_set
    }
    guess = Guess(fields, "free_text")
    guess.reasons["fields"] = f"the columns are those of the shape {fitting[0].name}"
    _choose_parser(guess, rows, name="")
    return guess


def _guess_by_names(
    rows: Sequence[Row],
    columns: Sequence[Column],
    choices: str | list[str] | None,
    choice_labels: str | None,
) -> Guess:
    """A guess by the names of columns, the answer by the first that can be read.

    Raises:
        UserError: no column can be the question, or none the answer.
    """
    taken: set[str | None] = set(choices) if isinstance(choices, list) else {choices, choice_labels}
    free = [column for column in columns if column.path not in taken]
    names = ", ".join(column.path for column in columns)[:200]
    answers = [
        *(one for one in find_answers(columns) if _can_be_answer(one, taken)),
        *(one for one in reversed(free) if _can_be_answer(one, taken) and one.mean_length < 40),
    ]
    for answer in dict.fromkeys(answers):
        question, why = _find_question(free, answer)
        if question is None:
            continue
        fields: dict[str, Any] = {"question": question, "answer": answer.path}
        if choices:
            fields |= {"choices": choices}
            fields |= {"choice_labels": choice_labels} if choice_labels else {}
        guess = Guess(fields, "choice" if choices else "free_text")
        guess.reasons["fields"] = why
        if not choices:
            _choose_parser(guess, rows, answer.name)
            return guess
        if _choose_index(guess, rows):
            guess.reasons["answer_parser"] = "each question has choices"
            return guess
    raise UserError(
        f"{rows[0].where}: no column that looks like {'an answer' if not answers else 'a question'}"
        f", or its answers cannot be read; the columns are {names}"
    )


def _can_be_answer(column: Column, taken: set[str | None]) -> bool:
    if column.name in ("id", "index", "idx") or (
        column.path in taken and not column.is_always(is_scores)
    ):
        return False
    return column.is_scalar or column.is_list_of_texts or column.is_always(is_scores)


def _find_question(columns: Sequence[Column], answer: Column) -> tuple[str | None, str]:
    """The question's column or columns, and why."""
    texts = [one for one in columns if one.path != answer.path and _is_text(one)]
    by_name = {one.name: one for one in reversed(texts)}
    for pair in QUESTION_PAIRS:
        if all(name in by_name for name in pair):
            one, other = (by_name[name].path for name in pair)
            return f"{{{one}}}\n{{{other}}}", f"{one} and {other} make one question together"
    named = [one for one in find_named(texts, QUESTION_NAMES) if one.path != answer.path]
    if named:
        return named[0].path, f"{named[0].path!r} is a usual name for it"
    longest = max(texts, key=lambda one: one.mean_length, default=None)
    if longest is None:
        return None, ""
    return longest.path, f"{longest.path!r} has the longest texts"


def _is_text(column: Column) -> bool:
    return column.is_always(lambda value: isinstance(value, str)) or (
        column.is_list_of_texts and column.name in ("context", "contexts", "passage", "passages")
    )


def _choose_parser(guess: Guess, rows: Sequence[Row], name: str) -> None:
    """Sets the parser that reads the answers, and why."""
    answers = [str(e.answer) for e in _read(guess, "free_text", rows)[0]]
    if answers and all("####" in answer for answer in answers):
        guess.options |= GSM8K
        guess.parser, why = "number", "what follows #### is the answer, what precedes its reasoning"
    elif guess.labels or _are_labels(answers, name):
        guess.parser, guess.labels = "label", sorted(set(answers))
        why = f"{len(guess.labels)} different answers"
        if _is_readable(guess, "yes_no", rows):
            guess.parser, why = "yes_no", f"the answers are {', '.join(guess.labels)}"
    else:
        guess.parser, why = _choose_open_parser(guess, rows, answers)
    guess.reasons["answer_parser"] = why


def _choose_open_parser(
    guess: Guess, rows: Sequence[Row], answers: Sequence[str]
) -> tuple[str, str]:
    whole = sum(bool(re.fullmatch(r"-?\d+\.0", answer)) for answer in answers)
    if answers and whole > 0.5 * len(answers):
        guess.options["answer_pattern"] = r"^(.*?)(?:\.0)?$"
        guess.reasons["answer_pattern"] = "the file writes 43.0 for 43"
    numbers = [
        ("number", "the answers are numbers"),
        ("decimal_comma", "the answers are numbers with a decimal comma"),
    ]
    commas = [answer for answer in answers if "," in answer]
    points = [answer for answer in answers if re.search(r"[0-9]\.[0-9]{1,2}(?![0-9])", answer)]
    if sum(map(has_decimal_comma, commas)) > max(0.5 * len(commas), len(points)):
        numbers.reverse()  # 1.234 is then read as 1234
    for parser, why in (
        *numbers,
        ("yes_no", "the answers are yes and no"),
        ("date", "the answers are dates"),
    ):
        if parser in PARSERS and _is_readable(guess, parser, rows):
            return parser, why
    lengths = sorted(map(len, answers)) or [0]
    if lengths[len(lengths) * 9 // 10] <= MAX_SHORT_ANSWER and _is_readable(guess, "text", rows):
        return "text", "the answers are short texts of one line"
    return "free_text", "the answers are long, or have several lines"


def _are_labels(answers: Sequence[str], name: str) -> bool:
    """Whether few answers occur again and again."""
    distinct = Counter(answers)
    if any(len(one) > MAX_LABEL_LENGTH or "\n" in one for one in distinct):
        return False
    are_numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", one) for one in distinct)
    if are_numbers and (name not in NUMERIC_LABELS or len(distinct) > 20):
        return False
    few = 2 <= len(distinct) <= min(MAX_LABELS, max(len(answers) // 3, 2))
    return few and len(answers) >= 4 and len(answers) > len(distinct)


def _choose_index(guess: Guess, rows: Sequence[Row]) -> bool:
    """Sets how answers name their choices; False where no way reads them."""
    attempts: list[tuple[dict[str, Any], str]] = [({}, "")]
    values = {str(row.values.get(guess.fields["answer"])) for row in rows}
    if all(value.isdecimal() for value in values):
        numbered = [({"answer_index": 0}, "the answers count from 0"),
                    ({"answer_index": 1}, "the answers count from 1")]  # fmt: skip
        attempts = [*(numbered if "0" in values else reversed(numbered)), *attempts]
        attempts.append(({"answer_index": "none"}, "the answers are texts of choices"))
    for options, why in attempts:
        examples, _, _ = _read(guess, "choice", rows, **options)
        if len(examples) >= MIN_READABLE * len(rows):
            guess.options |= options
            if why:
                guess.reasons["answer_index"] = why
            return True
    return False


def _add_reasoning(guess: Guess, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """A column that holds the steps to the answer."""
    if "reasoning_pattern" in guess.options or guess.fields.get("messages"):
        return
    used = str(guess.fields)
    for column in find_named(columns, REASONING_NAMES):
        is_beside = "." not in column.path
        if is_beside and column.path not in used and _is_text(column) and column.mean_length > 20:
            guess.fields["reasoning"] = column.path
            guess.reasons["reasoning"] = f"{column.path!r} is a usual name for it"
            return


def _add_id_and_category(guess: Guess, columns: Sequence[Column]) -> None:
    used = str(guess.fields)
    for column in find_named(columns, ["id", "uid", "guid", "qid", "question_id", "ticket_id"]):
        values = [str(value) for value in column.values]
        if column.is_scalar and len(set(values)) == len(values) and None not in column.values:
            guess.fields["id"] = column.path
            break
    for column in find_named(columns, ["category", "subject", "topic", "type", "task_name"]):
        kinds = {str(value) for value in column.values}
        complete = None not in column.values and "" not in column.values
        if column.path not in used and column.is_scalar and complete and 2 <= len(kinds) <= 50:
            guess.fields["category"] = column.path
            guess.reasons["category"] = "accuracy is reported for each of them, too"
            break


def _read(
    guess: Guess, parser: str, rows: Sequence[Row], **options: Any
) -> tuple[list[Example], str, int]:
    """The examples of the rows that a parser reads; the first refusal, and their number."""
    given = {**guess.options, **options}
    patterns = {key: value for key, value in given.items() if key.endswith("_pattern")}
    reader = ExampleReader(
        Fields(**guess.fields),
        parser,
        choices=(),
        answer_index=given.get("answer_index"),
        patterns=patterns,
    )
    examples, first, count = [], "", 0
    for row in rows:
        try:
            examples.append(reader.read(row, "all"))
        except UserError as mistake:
            first, count = first or str(mistake), count + 1
    return examples, first, count


def _is_readable(guess: Guess, parser: str, rows: Sequence[Row]) -> bool:
    """Whether a parser reads nearly all answers; numbers and dates are short, too."""
    if parser in ("number", "decimal_comma", "yes_no", "date"):
        examples = _read(guess, "free_text", rows)[0]
        answers = [example.answer for example in examples]
        if any(len(one) > MAX_STATED_LENGTH or "\n" in one for one in answers):
            return False
    return len(_read(guess, parser, rows)[0]) >= MIN_READABLE * len(rows)


def _read_all(guess: Guess, rows: Sequence[Row]) -> None:
    guess.examples, first, count = _read(guess, guess.parser, rows)
    guess.unreadable = (first, count)
