"""What is beside a number in a text, and makes something else of it.

A number that is a part of a range, a list, a ratio, several units or a calculation has no value of
its own: ``5 to 7``, ``5, 6 and 7``, ``2:1``, ``5 feet 6 inches``, ``16 - 3``, ``half of 10``.
"""

import re
from collections.abc import Callable
from functools import cached_property

from adapt_jax.tasks.language.negation import is_negated
from adapt_jax.tasks.language.number_words import NUMBER_WORD

__all__ = ["Found", "resolve"]

MAX_BESIDE = 40  # characters beside a number that are looked at

_UNIT = (
    r"[ ]?(?:h|hrs?|hours?|m|min|mins|minutes?|s|secs?|seconds?|days?|weeks?|months?|years?|ft|feet"
    r"|foot|'|yards?|miles?|[ckm]m|lbs?|pounds?|k?g|kilos?|[cm]?l|stone|gallons?|dollars?|euros?|degrees?|°)\.?"
)
_CODE = r"(?:(?:USD|EUR|GBP|INR|JPY|CNY|CHF|CAD|AUD|Rs\.?)[ ]?)?"
# between two numbers: of a range, a list, a ratio, a compound (5 feet 6 inches) or a calculation
_BETWEEN = re.compile(
    r"[ ]*[eE]?"
    r"|[ ]{0,3}%?[)\]}]{0,2}[ ]{0,3}(?:-|\+|\*\*?|/|×|·|[xX]|[ ]:[ ]|\\times|\\cdot|\\div|\\to)"
    rf"[ ]{{0,3}}[(\[{{]{{0,2}}{_CODE}"
    r"|(?:%|[ ]?(?i:percent))?[ ](?i:to|or|and|of|out[ ]of|in|per|from|by|through|till|until"
    rf"|up[ ]to|over|plus|minus|times|divided[ ]by|multiplied[ ]by|(?:less|more)[ ]than)[ ]{_CODE}"
    rf"|(?i:{_UNIT}),?(?:[ ]and)?[ ]?"
    # 5 cm to 7 cm, 3 boys and 5 girls
    rf"|[ ]?[^\W\d_][^\W\d]{{0,19}}(?:[ ][^\W\d]{{1,20}})?,?[ ](?:and|or|to)[ ]{_CODE}"
    rf"|(?i:{_UNIT})[ ]?-[ ]?"
    r"|-(?:to|by|in)-"
)
_LIST_SIGN = re.compile(r"[ ]?[,;][ ]?(?:(?:and|or)[ ])?")
_LIST_END = re.compile(r"[ ]?(?:[,;.!?)\]}]|\Z|\n|(?:and|or)\b)")
# after "=" comes a result: = $240 in 20 days, = 15% of 300, = 2 $10 bills
_BESIDE_RESULT = re.compile(r"%?[ ](?:(?:of|in|per|from|by|over)[ ])?", re.IGNORECASE)
_PERIOD = re.compile(r"[ ](?:second|minute|hour|day|week|month|year)", re.IGNORECASE)  # in 3 days
_ALTERNATIVE = re.compile(r" or \Z", re.IGNORECASE)  # 0.5 or 1/2 is one value
_BEFORE = re.compile(
    # half of 10, twice 5, log 5, two 5s, one of 5
    r"(?:\b(?:(?:(?:four|fif|six|seven|eigh|nin|ten|twelf|\w+teen|hundred)th"
    rf"|{NUMBER_WORD})s?[ ](?:of|in|out[ ]of|per|times|minus)"
    r"|(?:square|cube|root|factorial|logarithm|out)[ ]of|times|log|ln|sqrt|cbrt|sin|cos|tan|exp"
    r")[- (]{1,3}(?:the[ ])?"
    rf"|\b(?!minus|negative|one\b|zero\b|plus\b|point\b){NUMBER_WORD}[- ]{{1,2}}(?:and[ ])?"
    r"|\b(?:log|ln|sqrt|cbrt|sin|cos|tan|exp)\b[^\w\s]{1,3})\Z",
    re.IGNORECASE,
)
# a letter glued to the digits makes a name of them: H2O, A4, COVID-19; but Rs500
_NAME = re.compile(
    r"(?<![A-Za-z])(?!(?:Rs|Re|kr|RM|Tk|USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|NZD|HKD|SGD|KRW|BRL|MXN"
    r"|ZAR|SEK|NOK|DKK|PLN|RUB|TRY|THB)\Z)(?<!\\)[A-Za-z]++-?\Z"
)
_LETTER = re.compile("[A-Za-z]")


class Found:
    """A number in a text: its place, and what it is read as once its value is asked for."""

    def __init__(self, start: int, end: int, read: Callable[[], str | None]) -> None:
        self.start, self.end, self._read = start, end, read

    @cached_property
    def value(self) -> str | None:
        """The canonical form; None if it is ambiguous."""
        return self._read()

    def without_value(self) -> "Found":
        """A copy that has no value."""
        return Found(self.start, self.end, lambda: None)


def resolve(
    text: str, previous: Found | None, found: Found, following: Found | None
) -> Found | None:
    """A number between its neighbours, without a value where it is a part of something else.

    None: the text says that this number is not the answer (``not 5``).
    """
    before = text[max(0, found.start - MAX_BESIDE) : found.start]
    if _LETTER.search(before) and is_negated(text, found.start):
        return None
    if before.endswith("- "):  # a sign, or the mark of a list item
        return found.without_value()
    if _LETTER.search(before) and (_BEFORE.search(before) or _NAME.search(before)):
        return found.without_value()
    if previous is not None and _are_joined(text, previous, found):
        return found.without_value()
    if following is not None and _are_joined(text, found, following):
        return found.without_value()
    return found


def _are_joined(text: str, one: Found, other: Found) -> bool:
    """Whether two numbers in succession are parts of one range, list, ratio or calculation."""
    if other.start - one.end > MAX_BESIDE:
        return False
    between = text[one.end : other.start]
    if one.value == other.value and _ALTERNATIVE.search(between):
        return False
    if text[max(0, one.start - 3) : one.start].rstrip().endswith("="):
        if _BESIDE_RESULT.fullmatch(between):
            return False
    if between == " in " and _PERIOD.match(text, other.end):
        return False
    if _BETWEEN.fullmatch(between):
        return True
    return bool(_LIST_SIGN.fullmatch(between)) and bool(_LIST_END.match(text, other.end))
