"""Numbers as people and language models write them, read exactly.

A number is read as a whole or not at all: grouping (``1,234``, ``1,00,000``, ``1'000``), LaTeX,
fractions, powers of ten, magnitudes in words, signs of any kind. What has more than one reading
(``3,5``, ``5:45``, ``1.234,50``, ``2\\sqrt{3}``) is ambiguous and gives None. Every expression is
possessive or bounded, so that reading takes linear time.
"""

import re
from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from typing import NamedTuple

from adapt_jax.tasks.characters import GROUPING_SPACE, normalize_digits

__all__ = ["are_close", "read_gold_number", "read_last_number", "read_number"]

MAX_DIGITS = 700  # 1e-300 has 316 digits
MAX_EXPONENT = 330
MAX_ANSWER_LENGTH = 10_000  # characters in which an answer is looked for
MAX_GOLD_LENGTH = 1_000
FLOAT_DIGITS = 15  # significant digits that a 64-bit float keeps; further ones are rounding noise
FLOAT_NOISE = 1e-9  # relative difference that decimals of one value may have

_MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
}
_S = "[ ]{0,3}"
_GROUPED = (
    r"[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])"
    r"|[0-9]{1,2}(?:,[0-9]{2}(?=,))++,[0-9]{3}(?![0-9])"  # Indian: lakhs and crores
    rf"|[0-9]{{1,3}}(?:[{GROUPING_SPACE}'][0-9]{{3}})++(?![0-9])"
    r"|[0-9]++"
)
# A leading dot is a decimal point only where no word, digit or dot stands before it: Rs.5, ...5
_ARGUMENT = r"(?:\[[0-9]\])?+(?:\{[^{}]{0,40}\}){0,2}+"  # of a LaTeX command
_DECIMAL = rf"(?:(?>{_GROUPED})(?:\.[0-9]++)?+|(?<![\w.])\.[0-9]++)"
_NUMBER = re.compile(
    # a minus after a digit, a word or a bracket is a subtraction, not a sign
    r"(?P<sign>(?<![\w)\].}])[-+]|\b(?:minus|negative)[ ]{1,3})?+"
    r"(?:"
    # a date, a hexadecimal number
    r"(?P<code>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}|0[xX][0-9a-fA-F]++)(?!\w)|"
    # a fraction, perhaps mixed: 1/2, 3 1/2, \frac{1}{2}
    rf"(?>(?:(?P<whole>(?>{_GROUPED}))[ ]{{0,3}})?"
    rf"\\[dt]?frac{_S}(?P<sign2>)"
    rf"(?:\{{{_S}(?P<tex_over>-?[0-9]++){_S}\}}|(?P<tex_over1>[0-9]))"
    rf"{_S}(?:\{{{_S}(?P<tex_under>[0-9]++){_S}\}}|(?P<tex_under1>[0-9])))"
    rf"|(?>(?:(?P<whole2>(?>{_GROUPED}))[ ]{{1,3}})?"
    rf"(?P<over>(?>{_GROUPED})){_S}/{_S}(?P<under>(?>{_GROUPED}))(?![0-9]|{_S}/|[.,:][0-9]))"
    # a decimal, perhaps with a power of ten
    rf"|(?P<decimal>{_DECIMAL})(?![.,:/'][0-9]|{_S}/{_S}[0-9])"
    r"(?:(?P<exponent>[eE][-+]?[0-9]{1,3}(?!\w))"
    rf"|{_S}(?:×|\\times|\\cdot|\*|x|·){_S}10{_S}\^{_S}"
    rf"(?:\{{{_S}(?P<power>[-+]?[0-9]{{1,3}}){_S}\}}|(?P<power1>[-+]?[0-9]{{1,3}}(?![0-9]))))?+"
    r")"
    rf"(?:(?P<magnitudes>(?:[- ]?(?i:{'|'.join(_MAGNITUDES)})s?+\b){{1,3}}+)"
    r"|(?P<kilo>[kK])(?!\w))?+"
    # what follows makes another value of it
    rf"(?P<more>{_S}(?:\^{_ARGUMENT}|(?:\\sqrt|√|\\pi\b|π|\\[dt]?frac){_ARGUMENT}"
    r"|\.?\\(?:overline|bar|dot)\b|±|\\pm\b|_[0-9])"
    r"|(?<![0-9]{4})(?:[ ][0-9]{3}(?![0-9]))++"  # 1 234 567, or three numbers
    rf"|(?:[MB]|[ ]?(?i:bn|mn|mln|mil|dozens?))(?![\w'])"
    rf"|(?={_S}(?:\+|\*\*?|×|\\times\b|\\cdot\b|·|[xX])[ ]?[0-9])"  # a calculation
    r"|(?=[ ](?:and[ ])?[0-9]++[ ](?i:hundred|thousand)))?+"
    r"|(?P<compound>[0-9](?:[0-9.,:/']*[0-9])?+)"
    rf"|(?P<other>(?:\\[dt]?frac\b|\\sqrt\b|√){_ARGUMENT}|\\pi\b|π|∞|\\infty\b"
    r"|(?:±|\\pm\b)[ ]?[0-9.,]*)"
)
_CANONICAL = re.compile(r"-?[0-9]+(?:\.[0-9]+|/[1-9][0-9]*)?")
_TEN_TO = re.compile(r"(?:\A|(?<=[ =]))10\^(?:\{([-+]?[0-9]{1,3})\}|([-+]?[0-9]{1,3})(?![0-9]))")
_LIST = re.compile(r"[0-9]+(?:,[0-9]+)+")
_TEX = (
    (re.compile(r"\{,\}|\\[,;:! ]|~"), GROUPING_SPACE),  # grouping of digits
    (re.compile(r"\\(?:left|right|displaystyle|mathrm|text|textbf|mathbf|boxed|fbox)\b"), ""),
    (re.compile(r"\\([$%#&_])"), r"\1"),
)
_CURRENCIES = str.maketrans("", "", "$€£¥₹₩₽₺₫₱₪฿")
_CLAUSE_END = re.compile(
    r"(?<=[.!?])\s|\n|[,;]\s|\b(?:where|when|if|since|because|given|assuming)\b", re.IGNORECASE
)
_NUMBER_WORD = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty"
    r"|thirty|forty|fifty|sixty|seventy|eighty|ninety|half|third|quarter|dozen|score|hundred"
    r"|thousand|million|billion|trillion|lakh|crore|minus|negative|plus|or|not)s?\b",
    re.IGNORECASE,
)
_SIGN_OF_RESULT = re.compile(r"(?<==)[ ]{0,3}-[ ]{1,3}(?=\.?[0-9])")  # x = - 5
_DASH_BEFORE = re.compile(r"-[ ]{1,3}\.?[0-9]")  # a sign, or the mark of a list item


class Found(NamedTuple):
    """A number in a text: where it stands, and its canonical form or None if it is ambiguous."""

    start: int
    end: int
    value: str | None


def read_number(text: str) -> str | None:
    """The number that a stated answer gives, in canonical form.

    It is the first number of the first clause that has one; in a calculation the one after the
    last ``=``. Currency, percent sign and units are dropped (``50%`` is ``50``, as GSM8K has it).
    """
    text = _prepare(text[:MAX_ANSWER_LENGTH]).strip()
    text = _SIGN_OF_RESULT.sub("-", text)
    if _DASH_BEFORE.match(text):
        return None
    for clause in _split_clauses(text):
        result = clause.rfind("=") + 1
        for part in (clause[result:], clause) if result else (clause,):
            if found := next(_find_numbers(part), None):
                return found.value
    return None


def read_last_number(text: str) -> str | None:
    """The last number of a text that marks no answer (2205.11916, appendix A.6)."""
    # most texts end with their answer; a number at the very beginning of the tail may be cut
    for length in (MAX_ANSWER_LENGTH // 10, MAX_ANSWER_LENGTH):
        last = None
        for found in _find_numbers(_prepare(text[-length:])):
            last = found
        if last is not None and last.start > MAX_DIGITS or len(text) <= length:
            break
    return last.value if last else None


def read_gold_number(text: str) -> str | None:
    """The one number that a gold answer is, in canonical form; None where anything is left over.

    A currency, a percent sign or a unit may stand beside it, but no digit and no word of number.
    """
    if len(text) > MAX_GOLD_LENGTH:
        return None
    text = _prepare(text).strip()
    numbers = list(_find_numbers(text))
    if len(numbers) != 1:
        return None
    found = numbers[0]
    if _DASH_BEFORE.search(text[max(0, found.start - 4) : found.end]):
        return None
    rest = text[: found.start] + " " + text[found.end :]
    if len(rest) > 60 or any(one.isdecimal() for one in rest) or _NUMBER_WORD.search(rest):
        return None
    return found.value


def are_close(one: str, other: str, relative_tolerance: float = 0.0) -> bool:
    """Whether two canonical numbers are one value.

    Whole numbers are compared exactly where no tolerance is given. Others may differ by
    FLOAT_NOISE, because a file may hold 0.6666666667 for two thirds. What is no canonical number
    is close to nothing but itself: a Fraction of "1e999999999" would take all memory.
    """
    if one == other:
        return True
    for text in (one, other):
        if len(text) > MAX_DIGITS or not _CANONICAL.fullmatch(text):
            return False
    first, second = Fraction(one), Fraction(other)
    whole = first.denominator == second.denominator == 1
    tolerance = max(relative_tolerance, 0.0 if whole else FLOAT_NOISE)
    return abs(first - second) <= Fraction(tolerance) * max(abs(first), abs(second))


def _prepare(text: str) -> str:
    text = normalize_digits(text).translate(_CURRENCIES)
    if "\\" in text or "{" in text or "~" in text:
        for pattern, new in _TEX:
            text = pattern.sub(new, text)
    return text


def _split_clauses(text: str) -> Iterator[str]:
    start = 0
    for border in _CLAUSE_END.finditer(text):
        yield text[start : border.start()]
        start = border.end()
    yield text[start:]


def _find_numbers(text: str) -> Iterator[Found]:
    powers = {found.start(): found for found in _TEN_TO.finditer(text)}
    position = 0
    while found := _NUMBER.search(text, position):
        start, position = found.start(), found.end()
        if (power := powers.get(start)) is not None:
            position = power.end()
            exponent = int(power[1] or power[2])
            value = (
                _canonicalize(Fraction(10) ** exponent) if abs(exponent) <= MAX_EXPONENT else None
            )
            yield Found(start, position, value)
        elif text.endswith(("^", "_", "^{", "_{"), 0, start):
            continue  # an exponent or an index, no number of its own
        elif found["compound"] and _LIST.fullmatch(found["compound"]) and _is_list(text, position):
            first = found["compound"].partition(",")[0]
            yield Found(start, position, _canonicalize_text(first))
        else:
            yield Found(start, position, _read_match(found))


def _is_list(text: str, position: int) -> bool:
    """Whether a list goes on here: ``3,4 and 5``."""
    return re.match(r"\s{0,3}(?:,\s|and\b|or\b|&)", text[position : position + 8]) is not None


def _read_match(found: re.Match[str]) -> str | None:
    if found["more"] is not None or any(found[kind] for kind in ("code", "compound", "other")):
        return None
    if len(found[0]) > MAX_DIGITS:
        return None
    try:
        if found["decimal"]:
            value = _to_fraction(found["decimal"])
            power = int((found["exponent"] or "")[1:] or found["power"] or found["power1"] or 0)
            if abs(power) > MAX_EXPONENT:
                return None
            value *= Fraction(10) ** power
        else:
            whole = _to_fraction(found["whole"] or found["whole2"] or "0")
            over = found["over"] or found["tex_over"] or found["tex_over1"]
            under = found["under"] or found["tex_under"] or found["tex_under1"]
            value = _to_fraction(over) / _to_fraction(under)
            value = whole + value if value >= 0 or not whole else whole
    except ZeroDivisionError:
        return None
    for magnitude in re.findall("|".join(_MAGNITUDES), (found["magnitudes"] or "").lower()):
        value *= _MAGNITUDES[magnitude]
    value *= 1000 if found["kilo"] else 1
    negative = (found["sign"] or "").strip() not in ("", "+")
    return _canonicalize(-value if negative else value)


def _to_fraction(text: str) -> Fraction:
    """The exact value; a decimal with more digits than a float keeps is rounded to those."""
    digits = text.replace(",", "").replace("'", "").replace(GROUPING_SPACE, "")
    value = Decimal(digits)
    if "." in digits and len(digits.lstrip("-0.").replace(".", "")) > FLOAT_DIGITS:
        value = Context(prec=FLOAT_DIGITS).create_decimal(value)
    return Fraction(value)


def _canonicalize_text(digits: str) -> str | None:
    return _canonicalize(Fraction(digits)) if len(digits) <= MAX_DIGITS else None


def _canonicalize(value: Fraction) -> str | None:
    """An exact decimal where there is one, otherwise a reduced fraction ``n/d``.

    None for more than MAX_DIGITS characters, which would not be read again.
    """
    text = _to_text(value)
    return text if len(text) <= MAX_DIGITS else None


def _to_text(value: Fraction) -> str:
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    scale = max(twos, fives)
    if rest != 1 or scale == 0:
        return str(value)
    units, part = divmod(abs(value.numerator) * 10**scale // value.denominator, 10**scale)
    return f"{'-' if value < 0 else ''}{units}.{part:0{scale}d}"
