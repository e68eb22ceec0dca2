"""A task file for data that nobody has described: fields, parser and template, with the reasons.

Each guess is tried on the first rows by the reader that will read the task, so what is guessed can
be read.
"""

from collections.abc import Sequence
from typing import Any

from adapt_jax.tasks.fields.shapes import SHAPES, is_conversation, merge_rows
from adapt_jax.tasks.fields.values import is_scores
from adapt_jax.tasks.guessing.columns import (
    ANSWER_NAMES,
    QUESTION_NAMES,
    QUESTION_PAIRS,
    REASONING_NAMES,
    Column,
    find_answers,
    find_choice_columns,
    find_named,
    list_columns,
)
from adapt_jax.tasks.guessing.parser import Guess, choose_parser, is_readable, read_all
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.errors import UserError

__all__ = ["Guess", "guess_task"]

REJECTED_NAMES = "rejected loser".split()  # of preferences: what shall not be answered
ID_NAMES = "id index idx uid guid qid pairid".split()
CONVERSATION_NAMES = "chosen dialog dialogue conversation chat turns".split()
MAX_FALLBACK_LENGTH = 40  # characters of a column that is taken for the answer whatever its name


def guess_task(rows: Sequence[Row]) -> Guess:
    """The fields and the parser that read the rows.

    Raises:
        UserError: no column can be the question, or none the answer.
    """
    columns = list_columns(rows)
    if len(columns) == 1 and columns[0].is_scalar:
        raise UserError(
            f"{rows[0].where}: no column that looks like a question or an answer: there is one "
            f"column, {columns[0].path!r:.80} (a CSV file is divided by , ; | or a tab)"
        )
    choices, choice_labels = find_choice_columns(columns)
    guess = _guess_by_shape(rows, columns, choices) or _guess_conversation(rows, columns)
    if guess is None and choices:
        try:
            guess = _guess_by_names(rows, columns, choices, choice_labels)
        except UserError:  # columns that are named like choices, and are none
            pass
    if guess is None:
        guess = _guess_by_names(rows, columns, None, None)
    _add_reasoning(guess, rows, columns)
    _add_id_and_category(guess, columns)
    read_all(guess, rows)
    return guess


def _guess_by_shape(rows: Sequence[Row], columns: Sequence[Column], choices: Any) -> Guess | None:
    """A guess by a known shape of rows without choices."""
    values = merge_rows(rows).values
    fitting = [shape for shape in SHAPES[1:] if shape.fits(values)]
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
    choose_parser(guess, rows, name="")
    return guess


def _guess_conversation(rows: Sequence[Row], columns: Sequence[Column]) -> Guess | None:
    """A guess by a column of conversations, where nothing else can be the answer."""
    found = [
        one for one in find_named(columns, CONVERSATION_NAMES) if one.is_always(is_conversation)
    ]
    beside = [one for one in columns if "." not in one.path and one not in found]
    if not found or any(one.name in ANSWER_NAMES for one in beside):
        return None
    guess = Guess({"messages": found[0].path}, "free_text")
    guess.reasons["fields"] = f"{found[0].path!r} holds conversations"
    choose_parser(guess, rows, name="")
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
    free = [one for one in columns if one.path not in taken and one.name not in REJECTED_NAMES]
    names = ", ".join(column.path for column in columns)[:200]
    named = [one for one in find_answers(columns) if _can_be_answer(one, taken)]
    others = [one for one in reversed(free) if _is_fallback(one) and _can_be_answer(one, taken)]
    answers = list(dict.fromkeys([*named, *others]))
    for answer in answers:
        question, why = _find_question(free, answer)
        if question is None:
            continue
        if answer not in named:
            why += f"; {answer.path!r} is the last column of short values" + _list_flags(others)
        fields: dict[str, Any] = {"question": question, "answer": answer.path}
        if choices:
            fields |= {"choices": choices}
            fields |= {"choice_labels": choice_labels} if choice_labels else {}
        guess = Guess(fields, "choice" if choices else "free_text")
        guess.reasons["fields"] = why
        if not choices:
            choose_parser(guess, rows, answer.name)
            return guess
        if _choose_index(guess, rows):
            guess.reasons["answer_parser"] = "each question has choices"
            return guess
    raise UserError(
        f"{rows[0].where}: no column that looks like {'an answer' if not answers else 'a question'}"
        f", or its answers cannot be read; the columns are {names}"
    )


def _can_be_answer(column: Column, taken: set[str | None]) -> bool:
    if column.path in taken and not column.is_always(is_scores):
        return False
    return column.is_scalar or column.is_list_of_texts or column.is_always(is_scores)


def _is_fallback(column: Column) -> bool:
    """Whether a column may be the answer though its name does not say so."""
    is_id = column.name in ID_NAMES or column.name.endswith("_id")
    return (
        not is_id and column.name not in QUESTION_NAMES and column.mean_length < MAX_FALLBACK_LENGTH
    )


def _list_flags(columns: Sequence[Column]) -> str:
    """What to say of several columns of 0 and 1: the labels of questions that may have several."""
    flags = [
        one.path
        for one in columns
        if {str(value) for value in one.values} in ({"0", "1"}, {"True", "False"})
    ]
    if len(flags) < 2:
        return ""
    return f"; {', '.join(reversed(flags)):.150} are yes or no each: a task file reads one of them"


def _find_question(columns: Sequence[Column], answer: Column) -> tuple[str | None, str]:
    """The question's column or columns, and why."""
    texts = [one for one in columns if one.path != answer.path and _is_text(one)]
    by_name = {one.name: one for one in reversed(texts)}
    # the other text of a pair may be empty in most rows
    others = {one.name: one for one in reversed(columns) if one.is_text_if_there}
    for pair in QUESTION_PAIRS:
        if any(name in by_name for name in pair) and all(name in others for name in pair):
            by_name = {**others, **by_name}
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
        if is_readable(guess, "choice", rows, **options):
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
