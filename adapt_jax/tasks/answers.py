"""Answer parsers: from what a decoder wrote to one canonical form, or to none (it abstains).

Votes and grades compare canonical answers, so ``18.0``, ``$18`` and ``18 apples`` are one answer.
A new parser is a function with a name in ``PARSERS``.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from adapt_jax.tasks.templates import LETTERS, Template

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    # A minus after a digit, a word or a bracket is a subtraction, not a sign.
    rf"(?:(?<![\w)\].])-)?(?:"
    rf"(?:{_DIGITS}\ +)?[0-9]+/[0-9]+(?![0-9/])"  # 1/2, 3 1/2
    rf"|(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,2}}(?!\w))?)"  # 1,234.50, 1e-05
)
_SIGNS = str.maketrans("−﹣-", "---", "$€£¥")  # unicode minuses; currencies are units
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")


def _canonical_number(text: str) -> str | None:
    """An exact decimal where there is one, otherwise a reduced fraction ``n/d``."""
    *whole, last = text.lstrip("-").replace(",", "").split()
    try:
        value = Fraction(last) + (int(whole[0]) if whole else 0)
        value = -value if text.startswith("-") else value
        scale = next((k for k in range(100) if 10**k % value.denominator == 0), None)
        if not scale:
            return str(value)
        units, part = divmod(abs(value.numerator) * 10**scale // value.denominator, 10**scale)
        return f"{'-' if value < 0 else ''}{units}.{part:0{scale}d}"
    except (ValueError, ZeroDivisionError):  # more digits than Python converts; 1/0
        return None


def number(text: str, choices: Sequence[str] = ()) -> str | None:
    """The number that a stated answer begins with; after ``=`` where it holds a calculation.

    Currency, percent sign and units are dropped (``50%`` is ``50``, as GSM8K has it).
    """
    text = text.translate(_SIGNS)
    sentence = _SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    found = _NUMBER.search(sentence[sentence.rfind("=") + 1 :]) or _NUMBER.search(text)
    return _canonical_number(found[0]) if found else None


def last_number(text: str, choices: Sequence[str] = ()) -> str | None:
    """The last number of a text that marks no answer (2205.11916, appendix A.6)."""
    found = _NUMBER.findall(text.translate(_SIGNS))
    return _canonical_number(found[-1]) if found else None


def _fold(text: str) -> str:
    """Lower case; white space, underscores and hyphens as one space; no outer punctuation."""
    folded = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"^[^\w+-]+|[^\w%+-]+$", "", folded)


@lru_cache
def _folded(choices: tuple[str, ...]) -> list[str]:
    return [_fold(choice) for choice in choices]


def _only_choice(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice that the text is, or that stands in it as whole words."""
    folded, options = _fold(text), _folded(tuple(choices))
    if folded in options:
        return options.index(folded)
    standing = [o for o in options if o and re.search(rf"(?<!\w){re.escape(o)}(?!\w)", folded)]
    longest = {o for o in standing if not any(o != other and o in other for other in standing)}
    return options.index(longest.pop()) if len(longest) == 1 else None


def choice(text: str, choices: Sequence[str] = ()) -> str | None:
    """The letter of a choice: ``b``, ``(b)``, ``B. because``, ``option b``, or the choice itself.

    A letter wins over a choice's own text; two different letters or choices abstain.
    """
    letters = LETTERS[: len(choices) or len(LETTERS)]
    folded = text.strip().lower()
    for pattern in (
        rf"\W*(?:(?:option|choice|answer)\W+)?([{letters}])\W*",
        rf"\W*([{letters}])[).:](?!\s*(?:or|and)\b).*",
    ):
        if found := re.fullmatch(pattern, folded, re.DOTALL):
            return found[1]
    bracketed = set(re.findall(rf"\(([{letters}])\)", folded))
    if len(bracketed) == 1:
        return bracketed.pop()
    index = _only_choice(text, choices) if not bracketed else None
    return None if index is None else LETTERS[index]


def label(text: str, choices: Sequence[str] = ()) -> str | None:
    """One of ``choices`` in its own spelling; with none given, the folded first line."""
    if not choices:
        return _fold(text.strip().partition("\n")[0]) or None
    index = _only_choice(text, choices)
    return None if index is None else choices[index]


def yes_no(text: str, choices: Sequence[str] = ()) -> str | None:
    """``yes``, ``no`` or ``maybe``: the first word, or the only one of the three that occurs."""
    words = re.findall(r"\w+", text.lower())
    said = words[:1] if words[:1] and words[0] in ("yes", "no", "maybe") else words
    found = {word for word in said if word in ("yes", "no", "maybe")}
    return found.pop() if len(found) == 1 else None


def text(text: str, choices: Sequence[str] = ()) -> str | None:
    """The first line, in lower case, white space folded, without a closing full stop."""
    line = unicodedata.normalize("NFKC", text).strip().partition("\n")[0]
    return " ".join(line.casefold().split()).rstrip(".").rstrip() or None


Parser = Callable[[str, Sequence[str]], str | None]
PARSERS: dict[str, Parser] = {
    "number": number,
    "choice": choice,
    "label": label,
    "yes_no": yes_no,
    "text": text,
}
UNMARKED: dict[str, Parser] = {"number": last_number}  # where free text is read in another way


def read_answer(
    parser: str, generated_text: str, template: Template, choices: Sequence[str] = ()
) -> str | None:
    """The canonical answer in a generated text, or None where it cannot be read.

    It is read after the template's marker ("The answer is"); without a marker, from the whole.
    """
    _, stated = template.split_reasoning(generated_text)
    if stated == generated_text:
        return UNMARKED.get(parser, PARSERS[parser])(generated_text, choices)
    return PARSERS[parser](stated, choices)
