"""Answer parsers: one canonical form for gold answers, predictions, votes and likelihoods.

Votes and grades compare canonical answers, so ``18.0``, ``$18`` and ``18 apples`` are one answer.
What a model writes is read as people would read it; a gold answer is read strictly, as a whole.
An answer with more than one reading gives None: it abstains.

A new parser is a function of a text and the question's choices:

    from adapt_jax.tasks.answers import PARSERS

    @PARSERS.register("last_word")
    def last_word(text, choices):
        return text.split()[-1] if text.split() else None

An ``AnswerParser`` also says how golds, unmarked texts and equality are read.
"""

import functools
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from adapt_jax.tasks.characters import normalize_widths
from adapt_jax.tasks.choices import (
    find_choice,
    find_equal,
    find_label,
    fold_text,
    name_option,
)
from adapt_jax.tasks.letters import LETTERS
from adapt_jax.tasks.math_answers import (
    MATH_CONTINUATIONS,
    find_math_version,
    match_math,
    read_math,
)
from adapt_jax.tasks.negation import is_negated
from adapt_jax.tasks.numbers import (
    NUMBER_CONTINUATIONS,
    are_close,
    read_gold_number,
    read_last_number,
    read_number,
)
from adapt_jax.tasks.templates import Template
from adapt_jax.tasks.tolerance import EXACT, Tolerance
from adapt_jax.utils.registry import Registry

__all__ = [
    "PARSERS",
    "AnswerParser",
    "answers_match",
    "canonicalize_option",
    "find_parser",
    "read_answer",
    "read_gold",
]

PARSER_VERSION = 10  # raised when a parser reads some text in another way; enters identities

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
        version: int | str = PARSER_VERSION,
    ) -> None:
        functools.update_wrapper(self, read)
        self.read = read
        self.read_gold = read_gold or read
        self.read_unmarked = read_unmarked or read
        self.are_equal = are_equal or _match_text
        self.list_continuations = list_continuations or (lambda choices: ())
        self.version = version

    @property
    def has_tolerance(self) -> bool:
        """Whether answers are compared otherwise than as texts, so that one may be near another."""
        return self.are_equal is not _match_text

    def __call__(self, text: str, choices: Sequence[str] = ()) -> str | None:
        return self.read(text, choices)


def _match_text(one: str, other: str, tolerance: Tolerance) -> bool:
    return one == other


PARSERS: Registry[Any] = Registry("answer parser")  # of AnswerParser or Reader


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
    if stated == generated_text:
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

# not "no one", not "Yes?"
_YES_NO = re.compile(
    r"\b(?:yes|no(?![\s-](?:one|doubt|question|idea|matter)\b)|maybe)\b(?!\s?\?)", re.IGNORECASE
)
# "yes and no", "yes/no", "no, yes": what is joined to the first word
_JOINED = r"(?:[ ,/]{1,3}(?:and|or)?[ ,/]{0,3})"
_FIRST_WORD = re.compile(rf"\W*({_YES_NO.pattern})(?:{_JOINED}({_YES_NO.pattern}))?")


def _read_yes_no(text: str, choices: Sequence[str]) -> str | None:
    """``yes``, ``no`` or ``maybe``: the first word, or the only one of the three that is said.

    Two of them that are joined ("yes and no", "no, yes") abstain.
    """
    folded = normalize_widths(text).lower()
    if first := _FIRST_WORD.match(folded):
        return first[1] if first[2] in (None, first[1]) else None
    said = {one[0] for one in _YES_NO.finditer(folded) if not is_negated(folded, one.start())}
    return said.pop() if len(said) == 1 else None


def _read_gold_yes_no(text: str, choices: Sequence[str]) -> str | None:
    word = fold_text(text)
    return word if _YES_NO.fullmatch(word) else None


_YES_NO_CONTINUATIONS = [
    joint + word
    for joint in (" and ", " or ", ", ", "/", " ", "-")
    for word in ("yes", "no", "maybe", "one", "doubt", "question", "idea", "matter")
]
PARSERS.register("yes_no")(
    AnswerParser(
        _read_yes_no,
        read_gold=_read_gold_yes_no,
        list_continuations=lambda choices: _YES_NO_CONTINUATIONS,
    )
)


# ---- open answers


_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{(?:\\text\s?\{)?([^{}]*)\}{1,2}")
_EMPHASIS = (("**", "**"), ("__", "__"), *zip("*_`\"'“‘«", "*_`\"'”’»", strict=True))


def _read_first_line(text: str, choices: Sequence[str]) -> str | None:
    """The first line, in lower case, white space folded.

    A closing full stop and the emphasis or quotes around the whole are no part of it.
    """
    if boxes := _BOXED.findall(text):
        text = boxes[-1]
    line = _read_free_text(text.strip().partition("\n")[0], choices) or ""
    while (bare := _remove_emphasis(line)) != line:
        line = bare
    return line or None


def _remove_emphasis(line: str) -> str:
    for opening, closing in _EMPHASIS:
        inner = line[len(opening) : -len(closing)]
        wrapped = line.startswith(opening) and line.endswith(closing)
        if wrapped and inner.strip(" .") and opening not in inner and closing not in inner:
            return inner.strip().rstrip(".").rstrip()
    return line


def _read_gold_line(text: str, choices: Sequence[str]) -> str | None:
    return None if "\n" in text.strip() else _read_first_line(text, choices)


def _read_free_text(text: str, choices: Sequence[str]) -> str | None:
    """The whole text, in lower case, white space folded, without a closing full stop."""
    folded = " ".join(normalize_widths(text).casefold().split())
    return folded.rstrip(".").rstrip() or folded or None


PARSERS.register("text")(AnswerParser(_read_first_line, read_gold=_read_gold_line))
PARSERS.register("free_text")(AnswerParser(_read_free_text))


# ---- mathematics, by a library

PARSERS.register("math")(
    AnswerParser(
        lambda text, choices: read_math(text),
        are_equal=match_math,
        list_continuations=lambda choices: MATH_CONTINUATIONS,
        version=find_math_version(PARSER_VERSION),
    )
)
