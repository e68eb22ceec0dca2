"""Numbers as people and language models write them, read exactly.

A number is read as a whole or not at all: grouping (``1,234``, ``1,00,000``, ``1'000``), LaTeX,
fractions, powers of ten, magnitudes in words, signs of any kind. What has more than one reading
(``3,5``, ``5:45``, ``1.234,50``, ``2\\sqrt{3}``) is ambiguous and gives None. So does each number
of a range, a list, a ratio or a calculation (``5 to 7``, ``5, 6 and 7``, ``2:1``, ``16 - 3``): none
of them is the answer. Every expression is possessive or bounded, so that reading takes linear time.
"""

import re
from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from functools import partial
from itertools import chain, islice

from adapt_jax.tasks.answers.tolerance import EXACT, Tolerance
from adapt_jax.tasks.language.characters import GROUPING_SPACE, normalize_digits
from adapt_jax.tasks.language.number_context import Found, resolve
from adapt_jax.tasks.language.number_words import (
    LARGE_NUMBERS,
    NUMBER_WORD,
    NUMBER_WORDS,
    read_number_words,
)

__all__ = [
    "NUMBER_CONTINUATIONS",
    "are_close",
    "read_gold_number",
    "read_last_number",
    "read_number",
]

MAX_DIGITS = 700  # 1e-300 has 316 digits
MAX_EXPONENT = 330
MAX_ANSWER_LENGTH = 10_000  # characters in which an answer is looked for
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # ESC[0m, a colour, is no 0
MAX_GOLD_LENGTH = 1_000
FLOAT_DIGITS = 15  # significant digits that a 64-bit float keeps; further ones are rounding noise
FLOAT_NOISE = 1e-9  # relative difference that decimals of one value may have

_MAGNITUDES = {"hundred": 10**2} | LARGE_NUMBERS
_S = "[ ]{0,3}"
_GROUPED = (
    r"[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])"
    r"|[0-9]{1,2}(?:,[0-9]{2}(?=,))++,[0-9]{3}(?![0-9])"  # Indian: lakhs and crores
    rf"|[0-9]{{1,3}}(?:[{GROUPING_SPACE}'][0-9]{{3}})++(?![0-9])"
    r"|[0-9]++"
)
# A leading dot is a decimal point only where no word, digit or dot comes before it: Rs.5, ...5
_ARGUMENT = r"(?:\[[0-9]\])?+(?:\{[^{}]{0,40}\}){0,2}+"  # of a LaTeX command
_DECIMAL = rf"(?:(?>{_GROUPED})(?:\.[0-9]++)?+|(?<![\w.])\.[0-9]++)"
_NUMBER = re.compile(
    # a minus after a digit, a word or a bracket is a subtraction, not a sign
    r"(?P<sign>(?<![\w)\].}])[-+]|\b(?:minus|negative)[ ]{1,3})?+"
    r"(?:"
    # a date, a hexadecimal number
    r"(?P<code>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}|0[xX][0-9a-fA-F]++|0[bBoO][0-9]++)(?!\w)|"
    # a fraction, perhaps mixed: 1/2, 3 1/2, \frac{1}{2}
    rf"(?>(?:(?P<whole>(?>{_GROUPED}))[ ]{{0,3}})?"
    rf"\\[dt]?frac{_S}(?P<sign2>)"
    rf"(?:\{{{_S}(?P<tex_over>-?[0-9]++){_S}\}}|(?P<tex_over1>[0-9]))"
    rf"{_S}(?:\{{{_S}(?P<tex_under>[0-9]++){_S}\}}|(?P<tex_under1>[0-9])))"
    rf"|(?>(?:(?P<whole2>(?>{_GROUPED}))[ ]{{1,3}})?"
    rf"(?P<over>(?>{_GROUPED})){_S}/{_S}(?P<under>(?>{_GROUPED}))(?![0-9]|{_S}/|[.,:][0-9]))"
    # a decimal, perhaps with a power of ten
    rf"|(?P<decimal>{_DECIMAL})(?![.,:/'`][0-9]|{_S}/{_S}[0-9])"
    r"(?:(?P<exponent>[eE][-+]?[0-9]{1,3}(?!\w))"
    rf"|{_S}(?:×|\\times|\\cdot|\*|x|·){_S}10{_S}\^{_S}"
    rf"(?:\{{{_S}(?P<power>[-+]?[0-9]{{1,3}}){_S}\}}|(?P<power1>[-+]?[0-9]{{1,3}}(?![0-9]))))?+"
    r")"
    rf"(?:(?P<magnitudes>(?:[- ]?(?i:{'|'.join(_MAGNITUDES)})s?+\b){{1,3}}+)"
    r"|(?P<kilo>[kK])(?!\w))?+"
    # the words after it make another value of it
    rf"(?P<more>{_S}(?:\^{_ARGUMENT}|(?:\\sqrt|√|\\pi\b|π|\\[dt]?frac){_ARGUMENT}"
    r"|\.?\\(?:overline|bar|dot)\b|±|\\pm\b|_[0-9]++)"
    # 1 234 567, or three numbers
    r"|(?<![0-9]{4})(?:[ ][0-9]{3}(?![0-9]))++(?:[.,][0-9]++)*+"
    r"|(?:[MB]|[ ]?(?i:bn|mn|mln|mil|tn|trn|dozens?)|[ ]k)(?![\w'])"
    r"|[ ](?i:squared|cubed|factorial|choose|mod|modulo|to[ ]the[ ]power)\b"
    rf"|(?<=[a-z])[- ](?:and[ ])?(?i:{NUMBER_WORD})\b)?+"  # 5 million five hundred
    r"|(?P<compound>[0-9](?:[0-9.,:/'`]*[0-9])?+)"
    rf"|(?P<other>(?:\\[dt]?frac\b|\\sqrt\b|√){_ARGUMENT}|\\pi\b|π|∞|\\infty\b"
    r"|(?:±|\\pm\b)[ ]?[0-9.,]*)"
)
_CANONICAL = re.compile(r"-?[0-9]+(?:\.[0-9]+|/[1-9][0-9]*)?")
_TEN_TO = re.compile(r"(?:\A|(?<=[ =]))10\^(?:\{([-+]?[0-9]{1,3})\}|([-+]?[0-9]{1,3})(?![0-9]))")
_TEX = (
    (re.compile(r"\{,\}|\\[,;:! ]|~"), GROUPING_SPACE),  # grouping of digits
    (re.compile(r"\\(?:left|right|displaystyle|mathrm|text|textbf|mathbf|boxed|fbox)\b"), ""),
    (re.compile(r"\\([$%#&_])"), r"\1"),
)
_CURRENCY = "$€£¥₹₩₽₺₫₱₪฿"
_CURRENCIES = str.maketrans("", "", _CURRENCY)
_DOLLARS = re.compile(r"\b(?:A|AU|C|CA|HK|NZ|R|S|SG|US)(?=\$)")
_PRICE = re.compile(rf"(?<=[{_CURRENCY}])([ ]?-?[0-9][0-9.,]{{0,20}})[ ]?(?:([kK])|[mMbBtT])(?!\w)")
_UNDERLINE = re.compile(r"(?<![\w)\]}])_{1,3}(?=[-+(]{0,2}[0-9])")  # emphasis of Markdown: _5_
_PART = {"half": "1/2", "third": "1/3", "quarter": "1/4", "three quarters": "3/4"}
_AND_A_PART = re.compile(r"(?<=[0-9]) and (?:an?|one)? ?(half|third|quarter|three[ -]quarters)\b")
_CLAUSE_END = re.compile(
    r"(?<=[.!?])\s|\n|[,;]\s|\b(?:where|when|if|since|because|given|assuming)\b", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_NUMBER_WORD = re.compile(rf"\b(?:{NUMBER_WORD}|or|not)\b", re.IGNORECASE)
_SIGN_OF_RESULT = re.compile(r"(?<==)[ ]{0,3}-[ ]{1,3}(?=\.?[0-9])")  # x = - 5
_POWER_OF_UNIT = re.compile(r"(?<=[0-9])([ ]?(?:[cdkm]?m|in|ft|yd))(?:\^?\{?[23]\}?)(?!\w)")

# what may follow a number and make another one of it, or none
NUMBER_CONTINUATIONS = (
    *(".5", ",000", "'000", ":30", "/2", "-7", "^2", "e7", "k", "M", "x", "%"),
    *(f" {word}" for word in (*NUMBER_WORDS, "dozen", "bn", "mn", "k", "squared", "cubed")),
    *(f"-{word}" for word in NUMBER_WORDS),
    *(" and a half", " and a third", " and a quarter", " and three quarters", ", 3907, 3911"),
    *(
        f" {sign} 3907"
        for sign in ("-", "+", "*", "x", "×", "/", "÷", "=", ":", "\\times", "\\cdot")
    ),
    *(f" {word} 3907" for word in ("to", "or", "and", "of", "out of", "times", "plus", "minus")),
    *(f" {word} 3907" for word in ("divided by", "multiplied by", "choose", "feet", "hours")),
    *(f" {word} 3907" for word in ("minutes", "pounds")),
    *(" factorial", " \\pi"),
)

MAX_NUMBERS = 100  # of a text, that are looked at


def read_number(text: str) -> str | None:
    """The number that a stated answer gives, in canonical form.

    It is the first number of the first clause that has one; in a calculation the one after the
    last ``=``. Currency, percent sign and units are dropped (``50%`` is ``50``, as GSM8K has it),
    parentheses are no sign. A whole number in English words counts where a clause begins with it.
    """
    text = _prepare(text[:MAX_ANSWER_LENGTH]).strip()
    numbers = _find_values(text)
    found = next(numbers, None)
    sentence_end = -1
    for start, end in _split_clauses(text):
        while found is not None and found.start < start:
            found = next(numbers, None)
        first = found if found is not None and found.start < end else None
        if first is None:
            # a sentence with digits has its answer in digits
            if sentence_end < end:
                sentence = _SENTENCE_END.search(text, end)
                sentence_end = sentence.start() if sentence else len(text)
            if found is None or found.start >= sentence_end:
                if (value := read_number_words(text[start:end])) is not None:
                    return str(value)
            continue
        if (sign := text.rfind("=", start, end)) > first.start:
            result = next(_find_values(text, sign), None)
            first = result if result is not None and result.start < end else first
        return first.value
    return None


def read_last_number(text: str) -> str | None:
    """The last number of a text that marks no answer (2205.11916, appendix A.6)."""
    # most texts end with their answer; a number at the very beginning of the tail may be cut
    for length in (MAX_ANSWER_LENGTH // 10, MAX_ANSWER_LENGTH):
        last = _find_last_value(_prepare(text[-length:]))
        if last is not None and last.start > MAX_DIGITS or len(text) <= length:
            break
    return last.value if last else None


def read_gold_number(text: str) -> str | None:
    """The one number that a gold answer is, in canonical form; None where anything is left over.

    A currency, a percent sign or a unit may be beside it, but no digit and no word of
    number. A gold in words is refused.
    """
    if len(text) > MAX_GOLD_LENGTH or _CONTROL.search(text):
        return None
    text = _prepare(text).strip()
    numbers = list(islice(_find_values(text), 2))
    if len(numbers) != 1:
        return None
    found = numbers[0]
    rest = text[: found.start] + " " + text[found.end :]
    if len(rest) > 60 or any(one.isdecimal() for one in rest) or _NUMBER_WORD.search(rest):
        return None
    return found.value


def are_close(one: str, other: str, tolerance: Tolerance = EXACT) -> bool:
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
    difference = abs(first - second)
    share = max(tolerance.relative, 0.0 if whole else FLOAT_NOISE)
    return difference <= max(
        _as_written(share) * max(abs(first), abs(second)), _as_written(tolerance.absolute)
    )


def _as_written(tolerance: float) -> Fraction:
    """The decimal that a task file holds: 0.1 is a tenth, so that 1.1 is near to 1.0."""
    return Fraction(repr(tolerance))


def _prepare(text: str) -> str:
    text = normalize_digits(text)
    if "$" in text:
        text = _DOLLARS.sub("", text)
    if not text.isascii() or "$" in text:
        text = _PRICE.sub(lambda found: found[1] + ("k" if found[2] else "M"), text)
        text = text.translate(_CURRENCIES)
    if "\\" in text or "{" in text or "~" in text:
        for pattern, new in _TEX:
            text = pattern.sub(new, text)
    if "_" in text:
        text = _UNDERLINE.sub("", text)
    if "=" in text:
        text = _SIGN_OF_RESULT.sub("-", text)
    if "2" in text or "3" in text:
        text = _POWER_OF_UNIT.sub(r"\1", text)
    if " and " not in text:
        return text
    return _AND_A_PART.sub(lambda found: f" {_PART[found[1].replace('-', ' ')]}", text)


def _split_clauses(text: str) -> Iterator[tuple[int, int]]:
    """Where the clauses of a text begin and end."""
    start = 0
    for border in _CLAUSE_END.finditer(text):
        yield start, border.start()
        start = border.end()
    yield start, len(text)


def _find_values(text: str, start: int = 0) -> Iterator[Found]:
    """The numbers of a text from a position on, in order, each as ``_resolve`` reads it."""
    last: tuple[Found | None, Found | None] = (None, None)
    numbers = islice(_find_numbers(text, start), MAX_NUMBERS)
    for following in chain(numbers, (None,)):
        if last[1] is not None and (value := resolve(text, last[0], last[1], following)):
            yield value
        last = (last[1], following)


def _find_last_value(text: str) -> Found | None:
    numbers = list(_find_numbers(text))[-MAX_NUMBERS:]
    for previous, found, following in zip(
        reversed([None, *numbers[:-1]]),
        reversed(numbers),
        chain((None,), reversed(numbers)),
        strict=False,
    ):
        if value := resolve(text, previous, found, following):
            return value
    return None


def _find_numbers(text: str, position: int = 0) -> Iterator[Found]:
    powers = {found.start(): found for found in _TEN_TO.finditer(text, position)}
    while found := _NUMBER.search(text, position):
        start, position = found.start(), found.end()
        if (power := powers.get(start)) is not None:
            position = power.end()
            yield Found(start, position, partial(_read_power, int(power[1] or power[2])))
        elif text.endswith(("^", "_", "^{", "_{"), 0, start):
            continue  # an exponent or an index, no number of its own
        else:
            yield Found(start, position, partial(_read_match, found))


def _read_power(exponent: int) -> str | None:
    return _canonicalize(Fraction(10) ** exponent) if abs(exponent) <= MAX_EXPONENT else None


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
