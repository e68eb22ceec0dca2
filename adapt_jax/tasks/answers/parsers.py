"""Answer parsers: one canonical form for gold answers, predictions, votes and likelihoods.

Votes and grades compare canonical answers, so ``18.0``, ``$18`` and ``18 apples`` are one answer.
What a model writes is read as people would read it; a gold answer is read strictly, as a whole.
An answer with more than one reading gives None: it abstains.

A new parser is a function of a text and the question's choices:

    from adapt_jax.tasks.answers import PARSERS

    @PARSERS.register("last_word")
    def last_word(text, choices):
        return text.split()[-1] if text.split() else None

An ``AnswerParser`` also says how golds, unmarked texts and equality are read. ``regex:PATTERN``,
``json:FIELD`` and ``json_schema:{...}`` are parsers that are made by what follows the colon.
"""

import functools
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from adapt_jax.tasks.answers.choices import (
    find_choice,
    find_equal,
    find_label,
    fold_text,
    name_option,
)
from adapt_jax.tasks.answers.date_answers import read_date, read_gold_date
from adapt_jax.tasks.answers.decimal_comma import (
    DECIMAL_COMMA_CONTINUATIONS,
    are_close_with_comma,
    read_decimal_comma,
    read_gold_decimal_comma,
    read_last_decimal_comma,
)
from adapt_jax.tasks.answers.harness_answers import read_flexible, read_harness_gold, read_strict
from adapt_jax.tasks.answers.json_answers import make_json_readers, make_schema_readers
from adapt_jax.tasks.answers.json_schema import SCHEMA_KIND
from adapt_jax.tasks.answers.made_parsers import make_regex_readers
from adapt_jax.tasks.answers.math_answers import (
    MATH_CONTINUATIONS,
    find_math_version,
    match_math,
    read_math,
)
from adapt_jax.tasks.answers.numbers import (
    NUMBER_CONTINUATIONS,
    are_close,
    read_gold_number,
    read_last_number,
    read_number,
)
from adapt_jax.tasks.answers.open_answers import (
    read_first_line,
    read_free_text,
    read_gold_line,
    read_gold_span,
    read_last_line,
    read_span,
    read_verbatim,
)
from adapt_jax.tasks.answers.tolerance import EXACT, Tolerance
from adapt_jax.tasks.answers.yes_no_answers import (
    YES_NO_CONTINUATIONS,
    read_gold_yes_no,
    read_yes_no,
)
from adapt_jax.tasks.language.characters import normalize_widths
from adapt_jax.tasks.language.letters import LETTERS
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry

__all__ = [
    "PARSERS",
    "AnswerParser",
    "answers_match",
    "canonicalize_option",
    "find_parser",
    "read_answer",
    "read_gold",
    "shorten_parser_name",
]

PARSER_VERSION = 11  # raised when a parser reads some text in another way; enters identities

# (text, choices) -> canonical answer, or None where it cannot be read
Reader = Callable[[str, Sequence[str]], str | None]


class AnswerParser:
    """How answers are read and compared; called with a stated answer and the choices.

    Args:
        read: reads a stated answer, such as the text after "The answer is".
        read_gold: reads a gold answer, strictly; by default as ``read`` does.
        read_unmarked: reads a text that marks no answer; by default as ``read`` does.
        are_equal: compares (canonical answer, canonical gold, Tolerance); by default the texts
            must be equal, and a task may not set a tolerance.
        list_continuations: lists, for a question's choices, what may follow an answer and make
            another one of it. By default it is not known: a text that was cut off has an answer
            only where this does not depend on its last word.
        reads_whole_text: whether the whole generated text is read, whatever the template marks.
        accepts_cut_text: whether a text that was cut off is an answer as it is, such as a summary.
        version: enters the identity of every result that the parser reads.
    """

    def __init__(
        self,
        read: Reader,
        *,
        read_gold: Reader | None = None,
        read_unmarked: Reader | None = None,
        are_equal: Callable[[str, str, Tolerance], bool] | None = None,
        list_continuations: Callable[[Sequence[str]], Sequence[str]] | None = None,
        reads_whole_text: bool = False,
        accepts_cut_text: bool = False,
        version: int | str = PARSER_VERSION,
    ) -> None:
        functools.update_wrapper(self, read)
        self.read = read
        self.read_gold = read_gold or read
        self.read_unmarked = read_unmarked or read
        self.are_equal = are_equal or _match_text
        self.list_continuations = list_continuations or (lambda choices: ())
        self.reads_whole_text, self.accepts_cut_text = reads_whole_text, accepts_cut_text
        self.version = version

    @property
    def has_tolerance(self) -> bool:
        """Whether answers are compared otherwise than as texts, so that one may be near another."""
        return self.are_equal is not _match_text

    def __call__(self, text: str, choices: Sequence[str] = ()) -> str | None:
        return self.read(text, choices)


def _match_text(one: str, other: str, tolerance: Tolerance) -> bool:
    return one == other


class _Parsers(Registry[Any]):
    """Parsers by name; ``KIND:ARGUMENT`` makes one of a kind."""

    def find(self, name: str, where: str = "") -> Any:
        kind, colon, argument = name.partition(":")
        if not colon or kind not in MADE_PARSERS:
            return super().find(name, where)
        try:
            return self[name]
        except UserError as mistake:
            raise UserError(f"{where}{': ' * bool(where)}{mistake}") from None

    def __getitem__(self, name: str) -> Any:
        kind, colon, argument = name.partition(":")
        return _make_by(kind, argument) if colon and kind in MADE_PARSERS else self._entries[name]

    def describe_unknown(self, name: str) -> str:
        return super().describe_unknown(name) + "".join(f", {kind}:..." for kind in MADE_PARSERS)


MADE_PARSERS = {"regex": make_regex_readers, "json": make_json_readers}
MADE_PARSERS[SCHEMA_KIND] = make_schema_readers
PARSERS: Registry[Any] = _Parsers("answer parser")  # of AnswerParser or Reader


@lru_cache(maxsize=256)
def _make_by(kind: str, argument: str) -> "AnswerParser":
    read, read_gold = MADE_PARSERS[kind](argument)
    if kind == "regex":
        return AnswerParser(read, read_gold=read_gold)
    version = f"{PARSER_VERSION}, json 2"

    def list_continuations(choices: Sequence[str]) -> list[str]:
        return [" {"]  # an object or list that ends is complete, whatever follows

    return AnswerParser(
        read, read_gold=read_gold, list_continuations=list_continuations, version=version
    )


def shorten_parser_name(name: str) -> str:
    """The name of a parser in messages: of a schema its kind alone."""
    return SCHEMA_KIND if name.startswith(f"{SCHEMA_KIND}:") else name


def find_parser(name: str) -> AnswerParser:
    """The answer parser of this name; a registered function as an AnswerParser."""
    parser = PARSERS[name]
    return parser if isinstance(parser, AnswerParser) else _make_parser(parser)


@lru_cache(maxsize=256)
def _make_parser(read: Reader) -> AnswerParser:
    return AnswerParser(read)


def read_answer(
    parser: str, generated_text: str, template: Template, choices: Sequence[str] = ()
) -> str | None:
    """The canonical answer in a generated text, or None where it cannot be read.

    It is read after the template's marker ("The answer is"); without a marker, from the whole.
    """
    _, stated = template.split_reasoning(generated_text)
    if stated == generated_text or find_parser(parser).reads_whole_text:
        return find_parser(parser).read_unmarked(generated_text, choices)
    read = find_parser(parser).read
    bare = template.remove_closing(stated)
    answer = read(bare, choices)
    return read(stated, choices) if answer is None and bare != stated else answer


def read_gold(parser: str, text: str, choices: Sequence[str] = ()) -> str | None:
    """The canonical form of a gold answer; None where the whole text is not one answer."""
    return _read_gold(find_parser(parser), text, tuple(choices))


@lru_cache(maxsize=65536)
def _read_gold(parser: AnswerParser, text: str, choices: tuple[str, ...]) -> str | None:
    return parser.read_gold(text, choices)


def canonicalize_option(parser: str, index: int, option: str, choices: Sequence[str]) -> str:
    """The canonical answer that an option of a likelihood stands for.

    It equals the form of a gold answer that names the choice, and differs between choices.

    Args:
        index: the number of the choice, from 0.
        option: what the decoder is asked about: the choice's text or its letter.
        choices: all choices of the question.
    """
    if parser == "choice":
        return name_option(index, choices)
    if parser == "label":
        return choices[index]
    return read_gold(parser, option, choices) or option


def answers_match(
    parser: str,
    predicted: str,
    accepted: Sequence[str],
    choices: Sequence[str] = (),
    tolerance: Tolerance = EXACT,
) -> bool:
    """Whether a prediction, canonical or as written, is one of the accepted gold answers."""
    golds = [gold for text in accepted if (gold := read_gold(parser, text, choices)) is not None]
    if not golds:
        return False
    equal = find_parser(parser).are_equal
    if any(equal(predicted, gold, tolerance) for gold in golds):
        return True
    read = find_parser(parser).read(predicted, choices)
    return read is not None and any(equal(read, gold, tolerance) for gold in golds)


# ---- numbers

PARSERS.register("number")(
    AnswerParser(
        lambda text, choices: read_number(text),
        read_gold=lambda text, choices: read_gold_number(text),
        read_unmarked=lambda text, choices: read_last_number(text),
        are_equal=are_close,
        list_continuations=lambda choices: NUMBER_CONTINUATIONS,
    )
)
PARSERS.register("decimal_comma")(
    AnswerParser(
        lambda text, choices: read_decimal_comma(text),
        read_gold=lambda text, choices: read_gold_decimal_comma(text),
        read_unmarked=lambda text, choices: read_last_decimal_comma(text),
        are_equal=are_close_with_comma,
        list_continuations=lambda choices: DECIMAL_COMMA_CONTINUATIONS,
    )
)


# ---- choices and labels


def _read_choice(text: str, choices: Sequence[str]) -> str | None:
    """The letter of a choice, in lower case; the choice's text where letters do not suffice."""
    index = find_choice(text, choices)
    if index is None:
        return None
    return name_option(index, choices) if choices else LETTERS[index]


def _read_gold_choice(text: str, choices: Sequence[str]) -> str | None:
    """The letter, or the text of a choice; None where a bare letter may be either."""
    if len(text) > 1 and text in choices:
        return name_option(list(choices).index(text), choices)
    letter = re.fullmatch(r"\(?([A-Za-z])\)?[.):]?", normalize_widths(text).strip())
    count = len(choices) or len(LETTERS)
    by_letter = LETTERS.index(letter[1].lower()) if letter and count <= len(LETTERS) else None
    if by_letter is not None and by_letter >= count:
        by_letter = None
    by_text = find_equal(text, choices) if choices else None
    if by_letter is None or by_text is None or by_letter == by_text:
        index = by_letter if by_text is None else by_text
    else:
        index = by_letter if text.strip().startswith("(") else None
    if index is None:
        return None
    return name_option(index, choices) if choices else LETTERS[index]


def _list_choice_continuations(choices: Sequence[str]) -> list[str]:
    """Another choice or letter; none is known without choices."""
    joints = (" or ", " and ", ", ", "/", " / ")
    letters = [joint + letter for joint in joints for letter in LETTERS[: len(choices)]]
    return [*choices, *letters] if choices else []


PARSERS.register("choice")(
    AnswerParser(
        _read_choice,
        read_gold=_read_gold_choice,
        list_continuations=lambda choices: _list_choice_continuations(choices or LETTERS),
    )
)


def _read_label(text: str, choices: Sequence[str]) -> str | None:
    """One of ``choices`` in its own spelling; with none given, the folded first line."""
    if not choices:
        return fold_text(text.strip().partition("\n")[0]) or None
    index = find_label(text, choices)
    return None if index is None else choices[index]


def _read_gold_label(text: str, choices: Sequence[str]) -> str | None:
    if not choices:
        return None if "\n" in text.strip() else _read_label(text, choices)
    index = find_equal(text, choices)
    return None if index is None else choices[index]


PARSERS.register("label")(
    AnswerParser(_read_label, read_gold=_read_gold_label, list_continuations=list)
)

PARSERS.register("yes_no")(
    AnswerParser(
        read_yes_no,
        read_gold=read_gold_yes_no,
        list_continuations=lambda choices: YES_NO_CONTINUATIONS,
    )
)


# ---- open answers


PARSERS.register("text")(AnswerParser(read_first_line, read_gold=read_gold_line))
PARSERS.register("last_line")(AnswerParser(read_last_line, read_gold=read_gold_line))
PARSERS.register("span")(AnswerParser(read_span, read_gold=read_gold_span))
PARSERS.register("free_text")(AnswerParser(read_free_text))
PARSERS.register("verbatim")(AnswerParser(read_verbatim, accepts_cut_text=True))
PARSERS.register("date")(AnswerParser(read_date, read_gold=read_gold_date))


# ---- GSM8K as lm-evaluation-harness reads it

for _name, _read in (("gsm8k_strict", read_strict), ("gsm8k_flexible", read_flexible)):
    PARSERS.register(_name)(
        AnswerParser(
            _read, read_gold=read_harness_gold, reads_whole_text=True, accepts_cut_text=True
        )
    )


# ---- mathematics, by a library

PARSERS.register("math")(
    AnswerParser(
        lambda text, choices: read_math(text),
        are_equal=match_math,
        list_continuations=lambda choices: MATH_CONTINUATIONS,
        version=find_math_version(PARSER_VERSION),
    )
)
