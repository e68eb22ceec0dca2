"""Shapes of rows that need no ``fields``: Alpaca, ShareGPT, chat messages, FLAN and others.

A new shape is an entry of ``SHAPES``: its name, the columns by which it is known, its fields.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from adapt_jax.tasks.answers import read_gold
from adapt_jax.tasks.fields.example_reader import ExampleReader, Fields
from adapt_jax.tasks.fields.values import parse_structured, to_plain_value
from adapt_jax.tasks.language.characters import normalize_digits
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError

__all__ = [
    "MAX_STATED_LENGTH",
    "SHAPES",
    "Shape",
    "detect_shape",
    "guess_parser",
    "is_bare_number",
    "is_conversation",
    "merge_rows",
    "peek_rows",
]

NUM_PEEKED = 500  # rows by which the answer parser is chosen
MAX_STATED_LENGTH = 40  # characters of a number with its unit
MAX_LABELS = 40
MAX_LABEL_LENGTH = 60  # characters
KEYS_OF_MESSAGES = (frozenset({"role", "content"}), frozenset({"from", "value"}))
# a currency or a word for "about" before the number, a unit of at most three words after it
_BARE_NUMBER = re.compile(
    r"(?:[^\w\d]*(?:[^\W\d]{1,3}\.?|about|around|approx\.?|approximately|circa|minus)(?![^\W\d]))?"
    r"[^\w\d]*[0-9][^\s]*(?:\s+[0-9][^\s]*)*(?:\s+[^\s\d]+){0,3}"
)


@dataclass(frozen=True)
class Shape:
    """A known shape of rows.

    Attributes:
        columns: by which it is known.
        keys: of the messages in the first column, where it holds a conversation.
    """

    name: str
    columns: frozenset[str]
    fields: Fields
    keys: frozenset[str] = frozenset()

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Whether a row has this shape."""
        if not self.columns <= values.keys():
            return False
        if not self.keys:
            return True
        (column,) = self.columns
        return _has_messages(values[column], self.keys)


def _shape(name: str, columns: str, keys: str = "", **fields: str) -> Shape:
    return Shape(name, frozenset(columns.split()), Fields(**fields), frozenset(keys.split()))


_ROLES, _SHAREGPT = "role content", "from value"
SHAPES = (
    _shape("question/answer", "question answer"),
    _shape(
        "Alpaca", "instruction input output", question="{instruction}\n{input}", answer="output"
    ),
    _shape("instruction/output", "instruction output", question="instruction", answer="output"),
    _shape("ShareGPT", "conversations", _SHAREGPT, messages="conversations"),
    _shape("chat messages", "messages", _ROLES, messages="messages"),
    _shape("chat messages in 'conversations'", "conversations", _ROLES, messages="conversations"),
    _shape("prompt/completion", "prompt completion", question="prompt", answer="completion"),
    _shape("prompt/response", "prompt response", question="prompt", answer="response"),
    _shape("FLAN", "inputs targets", question="inputs", answer="targets"),
    _shape(
        "natural-instructions",
        "definition input output",
        question="{definition}\n{input}",
        answer="output",
    ),
    _shape(
        "natural-instructions of a task file",
        "Definition input output",
        question="{Definition}\n{input}",
        answer="output",
    ),
)


def merge_rows(rows: Sequence[Row]) -> Row:
    """A row with the columns of all rows, each with its first value: a row may lack some."""
    values: dict[str, Any] = {}
    for row in rows:
        if not row.values.keys() <= values.keys():
            values = {**row.values, **values}
    return replace(rows[0], values=values)


def detect_shape(row: Row) -> Shape:
    """The shape of a row, or of all rows merged.

    Raises:
        UserError: it has none of the shapes, or several.
    """
    fitting = [shape for shape in SHAPES if shape.fits(row.values)]
    # a shape that has all columns of another and more is the better one
    found = [one for one in fitting if not any(one.columns < other.columns for other in fitting)]
    if len(found) == 1:
        return found[0]
    has = display_text(", ".join(map(str, row.values)), 200)
    if found:
        names = " and ".join(f"{one.name} ({', '.join(sorted(one.columns))})" for one in found)
        raise UserError(
            f"{row.where}: has the shapes {names}; `fields` says which is the question and which "
            "the answer"
        )
    missing = "answer" if "question" in row.values else "question"
    raise UserError(
        f"{row.where}: no field {missing!r}; it has: {has}; `fields` says which is what "
        "(`adapt-jax init FILE` writes a task file)"
    )


def peek_rows(rows: Iterable[Any]) -> tuple[list[Any], Iterator[Any]]:
    """The first rows, and all rows as if none had been read."""
    iterator = iter(rows)
    first = list(islice(iterator, NUM_PEEKED))
    return first, chain(first, iterator)


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, or the text of one."""
    return any(_has_messages(value, keys) for keys in KEYS_OF_MESSAGES)


def _has_messages(value: Any, keys: Collection[str]) -> bool:
    messages = to_plain_value(parse_structured(value))
    return (
        isinstance(messages, list | tuple)
        and bool(messages)
        and all(isinstance(one, dict) and set(keys) <= one.keys() for one in messages)
    )


def is_bare_number(answer: str) -> bool:
    """Whether an answer is a number with perhaps a unit, and no name or sentence with a number."""
    text = normalize_digits(answer.strip())
    return len(text) <= MAX_STATED_LENGTH and _BARE_NUMBER.fullmatch(text) is not None


def guess_parser(fields: Fields, rows: Sequence[Row]) -> str:
    """The answer parser that reads the answers of these rows: ``free_text`` where no other does."""
    reader = ExampleReader(fields, "free_text")
    answers = []
    for row in rows:
        try:
            answers.append(reader.read(row, "all").answer)
        except UserError:  # reported with its line when the row is read
            continue
    if not answers:
        return "free_text"
    is_short = all(len(answer) <= MAX_STATED_LENGTH and "\n" not in answer for answer in answers)
    for parser in ("number", "decimal_comma", "yes_no"):
        is_number = parser == "yes_no" or all(map(is_bare_number, answers))
        if is_short and is_number and all(read_gold(parser, one) is not None for one in answers):
            return parser
    distinct = set(answers)
    is_label = all(len(one) <= MAX_LABEL_LENGTH and "\n" not in one for one in distinct)
    if is_label and len(answers) >= 20 and 2 <= len(distinct) <= min(MAX_LABELS, len(answers) // 5):
        return "label"
    return "free_text"
