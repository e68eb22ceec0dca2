"""Numbers with a decimal comma, as most languages but English write them: ``3,5``, ``1.234,50``.

They are read as the numbers of ``numbers.py`` are, after comma and point have changed places. The
canonical form has a decimal comma, too, so that reading it again gives the same number.
"""

import re

from adapt_jax.tasks.answers.numbers import (
    NUMBER_CONTINUATIONS,
    are_close,
    read_gold_number,
    read_last_number,
    read_number,
)
from adapt_jax.tasks.answers.tolerance import EXACT, Tolerance
from adapt_jax.tasks.language.characters import normalize_digits

__all__ = [
    "DECIMAL_COMMA_CONTINUATIONS",
    "are_close_with_comma",
    "has_decimal_comma",
    "read_decimal_comma",
    "read_gold_decimal_comma",
    "read_last_decimal_comma",
]

MAX_LENGTH = 10_000  # characters of a text, in which numbers are looked for
DECIMAL_COMMA_CONTINUATIONS = (*NUMBER_CONTINUATIONS, ",5", ".000")
_GROUPED = (
    r"[0-9]{1,3}(?:\.[0-9]{3})++"
    r"|[0-9]{1,3}(?:[ ][0-9]{3})++(?=,[0-9])|[0-9]{1,3}(?:[ ][0-9]{3}){2,}+"
)
# whole numbers grouped by points or spaces, and decimals; 3.5 and 1,234.50 stay as they are
_NUMBER = re.compile(
    rf"(?<![0-9.,])(?<![0-9][ ])({_GROUPED}|[0-9]++)(?:,([0-9]++))?+(?![0-9]|[.,][0-9])"
)
_BETWEEN = r"(?<=[0-9])[ ]({})[ ](?=[-+]?[0-9])"
_WORDS = (
    # ranges and lists, of which no number is the answer
    (re.compile(_BETWEEN.format("bis|à|tot|til|do|a|až")), " to "),
    (re.compile(_BETWEEN.format("oder|ou|of|eller|lub|o|nebo")), " or "),
    (re.compile(_BETWEEN.format("und|et|en|og|och|y|e|i|a")), " and "),
    # magnitudes; a billion is a thousand times more than in English, or it is not
    (
        re.compile(r"\b(?:mio|mln|millionen|millones|milioni|milhões)\b\.?", re.IGNORECASE),
        "million",
    ),
    (re.compile(r"\b(?:mrd|mld|milliarden?|milliards?|miliardi)\b\.?", re.IGNORECASE), "billion"),
    (re.compile(r"\b(?:tausend|mille|mil|mila|tys)\b\.?", re.IGNORECASE), "thousand"),
)
_BILLION = re.compile(r"(?<=[0-9])[ ]b[iy]l+(?:ion|ón|ione|hão|jon|ioon)\w*", re.IGNORECASE)
# a comma that cannot group thousands
_DECIMAL_COMMA = re.compile(
    r"(?<![0-9,.])[0-9][0-9.]*+,(?:[0-9]{1,2}|[0-9]{4,})(?![0-9]|[.,][0-9])"
)


def read_decimal_comma(text: str) -> str | None:
    """The number that a stated answer gives, in canonical form; see ``numbers.read_number``."""
    return _to_comma(read_number(_to_point(text[:MAX_LENGTH])))


def read_last_decimal_comma(text: str) -> str | None:
    """The last number of a text that marks no answer."""
    return _to_comma(read_last_number(_to_point(text[-MAX_LENGTH:])))


def read_gold_decimal_comma(text: str) -> str | None:
    """The one number that a gold answer is; None where anything else is left over."""
    return _to_comma(read_gold_number(_to_point(text))) if len(text) <= MAX_LENGTH else None


def are_close_with_comma(one: str, other: str, tolerance: Tolerance = EXACT) -> bool:
    """Whether two canonical numbers are one value, see ``numbers.are_close``."""
    return are_close(one.replace(",", "."), other.replace(",", "."), tolerance)


def has_decimal_comma(text: str) -> bool:
    """Whether a number in a text has a comma that can be nothing but a decimal comma."""
    return _DECIMAL_COMMA.search(normalize_digits(text[:MAX_LENGTH])) is not None


def _to_point(text: str) -> str:
    """The text with its numbers as English writes them."""

    def change(found: re.Match[str]) -> str:
        whole = found[1].replace(".", "").replace(" ", "")
        return whole if found[2] is None else f"{whole}.{found[2]}"

    text = _BILLION.sub(" ±", normalize_digits(text))
    for word, english in _WORDS:
        text = word.sub(english, text)
    return _NUMBER.sub(change, text)


def _to_comma(canonical: str | None) -> str | None:
    return None if canonical is None else canonical.replace(".", ",")
