"""Whole numbers in English words: ``twenty-one``, ``five hundred thousand``, ``minus two``."""

import re

__all__ = ["LARGE_NUMBERS", "NUMBER_WORD", "NUMBER_WORDS", "read_number_words"]

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
_ONES += "fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_ONES.split())}
_SMALL |= {word: value for value, word in zip(range(20, 100, 10), _TENS.split(), strict=True)}
LARGE_NUMBERS = {
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
}
NUMBER_WORDS = (*_SMALL, "hundred", *LARGE_NUMBERS)
_WORD = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
# words that belong to the writing of a number, also of one that is not read here
NUMBER_WORD = (
    rf"(?:{_WORD}|half|halves|third|quarter|fifth|dozen|score|minus|negative|plus|point"
    r"|twice|thrice|double|triple)s?"
)
_PHRASE = re.compile(
    r"(?P<lead>(?:\W|\b(?:is|are|about|approximately|exactly|only|just)\b){0,8}+)"
    r"(?:(?P<sign>minus|negative)\s{1,2})?"
    rf"(?P<words>(?:an?\s(?=hundred|thousand|million|billion|trillion))?(?:{_WORD})"
    rf"(?:[\s-]{{1,2}}(?:and\s)?(?:{_WORD}))*+)(?![\w-])(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_MORE = re.compile(rf"\b(?:{NUMBER_WORD}|times|or|of|to|per|from|by)\b|[0-9]", re.IGNORECASE)
MAX_LENGTH = 200  # characters in which a number is looked for


def read_number_words(text: str) -> int | None:
    """The whole number with which a text begins, where it is the only one.

    None where the words are no number (``two five``) or only a part of one (``two thirds``,
    ``five or six``, ``one of them``).
    """
    found = _PHRASE.match(text[:MAX_LENGTH])
    if found is None or _MORE.search(found["rest"]):
        return None
    value = _compute_value(re.findall(r"[a-z]+", found["words"].lower()))
    return -value if value is not None and found["sign"] else value


def _compute_value(words: list[str]) -> int | None:
    """The value of the words, which are read in groups: (two hundred five) thousand, (ten)."""
    total, group, last = 0, 0, 10**15
    previous = ""
    for word in words:
        if word in ("and", "a", "an"):
            continue
        if word in LARGE_NUMBERS:
            # the magnitudes become smaller: two million three thousand
            if LARGE_NUMBERS[word] >= last or previous == "zero":
                return None
            last = LARGE_NUMBERS[word]
            total, group = total + (group or 1) * last, 0
        elif word == "hundred":
            if group >= 100 or previous in ("zero", "ten") or group % 10 == 0 and group:
                return None
            group = (group or 1) * 100
        else:
            small = _SMALL[word]
            tens = previous in _TENS.split()
            # twenty one, a hundred one; not five six, nor twenty eleven
            if previous in _SMALL and not (tens and 0 < small < 10):
                return None
            group += small
        previous = word
    return total + group
