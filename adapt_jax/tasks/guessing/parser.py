"""Which answer parser reads the answers of unknown data, and with which options."""

import importlib.util
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.answers.decimal_comma import has_decimal_comma
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader, Fields
from adapt_jax.tasks.fields.shapes import MAX_STATED_LENGTH, is_bare_number
from adapt_jax.tasks.fields.values import Missing
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.errors import UserError

__all__ = ["Guess", "choose_parser", "is_readable", "read_all", "read_examples"]

MIN_READABLE = 0.9  # of the rows with an answer, that a guess has to read
MAX_LABELS = 150
MAX_LABEL_LENGTH = 80  # characters
MAX_SHORT_ANSWER, MAX_SHORT_WORDS = 80, 10  # characters and words of a text that is one line
MIN_EXTRACTED = 0.8  # of the answers, that are a part of their question
MIN_SEVERAL = 0.2  # of the rows, that have more answers than one
MIN_BOXED = 0.9
GSM8K = {
    "reasoning_pattern": r"^(.*?)\s*####",
    "answer_pattern": r"####\s*(.+)$",
    "strip_pattern": "<<[^>]*>>",
}
BOXED = {
    "reasoning_pattern": r"^(.*)$",
    "answer_pattern": r".*\\boxed\s?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}",
}
NUMERIC_LABELS = "label labels class category sentiment rating stars polarity".split()
LONG_NAMES = "summary highlights abstract tldr translation".split()


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


def choose_parser(guess: Guess, rows: Sequence[Row], name: str) -> None:
    """Sets the parser that reads the answers, and why.

    Args:
        name: of the answers' column, folded.
    """
    examples = read_examples(guess, "free_text", rows)[0]
    answers = [str(example.answer) for example in examples]
    if _are_whole_floats(answers):
        guess.options["answer_pattern"] = r"^(.*?)(?:\.0)?$"
        guess.reasons["answer_pattern"] = "the file writes 43.0 for 43"
        answers = [answer.removesuffix(".0") for answer in answers]
    if answers and all("####" in answer for answer in answers):
        guess.options |= GSM8K
        guess.parser, why = "number", "what follows #### is the answer, what precedes its reasoning"
    elif answers and sum("\\boxed" in one for one in answers) >= MIN_BOXED * len(answers):
        guess.options |= BOXED
        has_math = importlib.util.find_spec("math_verify") is not None
        parsers = ("number", "math") if has_math else ("number",)
        guess.parser = next((one for one in parsers if is_readable(guess, one, rows)), "text")
        why = "what \\boxed{} holds is the answer, the text its reasoning"
    elif guess.labels or _are_labels(answers, name):
        guess.parser, guess.labels = "label", sorted(set(answers))
        why = f"{len(guess.labels)} different answers"
        if is_readable(guess, "yes_no", rows):
            guess.parser, why = "yes_no", f"the answers are {', '.join(guess.labels)}"
    else:
        guess.parser, why = _choose_open_parser(guess, rows, examples, answers, name)
    points = [answer for answer in answers if "." in answer]
    if guess.parser == "number" and points and all(map(_may_be_thousands, points)):
        why += "; 1.234 is read as a decimal, where decimal_comma reads 1234"
    several = sum(bool(example.aliases) for example in examples)
    if several > MIN_SEVERAL * len(examples):
        why += (
            f"; {several} of {len(examples)} rows have several, of which each one counts as right"
        )
    guess.reasons["answer_parser"] = why


def _may_be_thousands(answer: str) -> bool:
    return re.search(r"(?<![0-9.,])[1-9][0-9]{0,2}\.[0-9]{3}(?![0-9.,])", answer) is not None


def _are_whole_floats(answers: Sequence[str]) -> bool:
    return sum(bool(re.fullmatch(r"-?\d+\.0", one)) for one in answers) > 0.5 * len(answers)


def _choose_open_parser(
    guess: Guess,
    rows: Sequence[Row],
    examples: Sequence[Example],
    answers: Sequence[str],
    name: str,
) -> tuple[str, str]:
    """A parser of answers that are no labels, and why."""
    for parser, why in (
        *_order_number_parsers(answers),
        ("yes_no", "the answers are yes and no"),
        ("date", "the answers are dates"),
    ):
        if parser in PARSERS and is_readable(guess, parser, rows):
            return parser, why
    path = str(guess.fields.get("answer"))
    if name in LONG_NAMES or path.startswith("translation."):
        return "free_text", f"{path!r} is a usual name for whole texts"
    place = len(answers) * 9 // 10
    lengths = sorted(map(len, answers)) or [0]
    words = sorted(len(answer.split()) for answer in answers) or [0]
    is_short = lengths[place] <= MAX_SHORT_ANSWER and words[place] <= MAX_SHORT_WORDS
    if not is_short or not is_readable(guess, "text", rows):
        return "free_text", "the answers are long, or have several lines"
    if sum(answer.endswith((".", "!", "?", "。")) for answer in answers) > 0.5 * len(answers):
        return "free_text", "the answers are sentences"
    extracted = sum(example.answer in example.question for example in examples)
    if "{" in str(guess.fields.get("question")) and extracted >= MIN_EXTRACTED * len(examples):
        guess.options["scorer"] = "squad"
        return "span", "the answers are parts of the texts beside the questions, as in SQuAD"
    return "text", "the answers are short texts of one line"


def _order_number_parsers(answers: Sequence[str]) -> list[tuple[str, str]]:
    """The parsers of numbers, that of a decimal comma first where most commas can be nothing else.

    It reads 1.234 as 1234.
    """
    parsers = [
        ("number", "the answers are numbers"),
        ("decimal_comma", "the answers are numbers with a decimal comma"),
    ]
    commas = [answer for answer in answers if "," in answer]
    points = [answer for answer in answers if re.search(r"[0-9]\.[0-9]{1,2}(?![0-9])", answer)]
    if sum(map(has_decimal_comma, commas)) > max(0.5 * len(commas), len(points)):
        parsers.reverse()
    return parsers


def _are_labels(answers: Sequence[str], name: str) -> bool:
    """Whether few answers occur again and again."""
    distinct = Counter(answers)
    if any(len(one) > MAX_LABEL_LENGTH or "\n" in one for one in distinct):
        return False
    are_numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", one) for one in distinct)
    is_flag = distinct.keys() == {"0", "1"}
    if are_numbers and not is_flag and (name not in NUMERIC_LABELS or len(distinct) > 20):
        return False
    few = 2 <= len(distinct) <= min(MAX_LABELS, max(len(answers) // 3, 2))
    return few and len(answers) >= 4 and len(answers) > len(distinct)


def read_examples(
    guess: Guess, parser: str, rows: Sequence[Row], **options: Any
) -> tuple[list[Example], str, int, int]:
    """The examples of the rows that a parser reads.

    Returns:
        the examples; the first refusal; how many rows cannot be read, and how many of these lack a
        question or an answer.
    """
    given = {**guess.options, **options}
    patterns = {key: value for key, value in given.items() if key.endswith("_pattern")}
    reader = ExampleReader(
        Fields(**guess.fields),
        parser,
        choices=(),
        answer_index=given.get("answer_index"),
        patterns=patterns,
    )
    examples, first, count, missing = [], "", 0, 0
    for row in rows:
        try:
            examples.append(reader.read(row, "all"))
        except UserError as mistake:
            first, count = first or str(mistake), count + 1
            missing += isinstance(mistake, Missing)
    return examples, first, count, missing


def is_readable(guess: Guess, parser: str, rows: Sequence[Row], **options: Any) -> bool:
    """Whether a parser reads nearly all answers; numbers and dates are short, too."""
    examples, _, _, missing = read_examples(guess, parser, rows, **options)
    answers = [example.answer for example in examples]
    if parser in ("number", "decimal_comma") and not all(map(_is_number, answers)):
        return False
    if parser in ("number", "decimal_comma", "yes_no", "date") and any(
        len(one) > MAX_STATED_LENGTH or "\n" in one for one in answers
    ):
        return False
    return bool(examples) and len(examples) >= MIN_READABLE * (len(rows) - missing)


def _is_number(answer: str) -> bool:
    """Whether an answer is a number, and no code such as 01234."""
    return is_bare_number(answer) and not re.match(r"0[0-9]", answer)


def read_all(guess: Guess, rows: Sequence[Row]) -> None:
    """Sets the examples of the guess, and what could not be read."""
    guess.examples, first, count, _ = read_examples(guess, guess.parser, rows)
    guess.unreadable = (first, count)
