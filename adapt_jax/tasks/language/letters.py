"""The letter of a choice that an answer states: ``B``, ``(b)``, ``the answer is B``, ``So B.``"""

import re
import string
from collections.abc import Sequence
from itertools import islice

from adapt_jax.tasks.language.negation import is_negated

__all__ = ["LETTERS", "NOTHING", "find_lone_letter", "find_stated_letter", "read_whole_letter"]

LETTERS = string.ascii_lowercase
NOTHING = -1  # no letter is stated; None: several are
MAX_MENTIONS = 100  # of letters in a text

_LETTER = r"(?-i:[A-Za-z])"  # ignoring case would also match the Kelvin sign and others
# "The correct answer is C", "Answer: (C)", "final answer: **C**", "I choose option c)"
_CUE = re.compile(
    r"\b(?:answer|option|choice|choose|select|pick|correct(?:\s(?:answer|option|choice))?)\b"
    r"(?:\s?\([^()]{0,20}\))?[*_]{0,2}\s{0,3}(?:is|was|would\sbe|should\sbe|must\sbe|:|=|->)?"
    r"[*_]{0,2}\s{0,3}:?\s{0,3}(?:the\s)?(?:option|choice|answer|letter)?\s{0,3}"
    rf"(?P<open>[(\[{{*_`\"'$]{{0,4}})(?P<letter>{_LETTER})(?![\w'’+#-]|\.\w)"
    r"(?P<close>[)\]}*_`\"'$]{0,4})(?P<next>[.:,;!?]?)(?P<space>\s|\Z|<)?",
    re.IGNORECASE,
)
_START = re.compile(
    rf"\s*(?:(?:option|choice|answer|letter)\W{{1,3}})?(?P<open>[(\[{{*_`\"'$#]{{0,4}})"
    rf"(?P<letter>{_LETTER})(?![\w'’+#-]|\.\w)"
    r"(?P<close>[)\]}*_`\"'$]{0,4})(?P<next>[.:,;!?]?)",
    re.IGNORECASE,
)
# "So B.", "it must be B", "leaving C", "I'd go with D"
_CONCLUSION = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently|leaving|leaves|(?:go|going)\swith|say|vote\sfor"
    r"|it\s(?:is|must\sbe|has\sto\sbe)|it['’]s|means)\b[,:]?\s{1,3}"
    r"(?:(?:it\s(?:is|must\sbe)|it['’]s|only|probably|definitely|option|choice)\s){0,2}"
    rf"(?P<open>[(\[{{*_`\"'$]{{0,4}})(?P<letter>{_LETTER})(?![\w'’+#-]|\.\w)"
    r"(?P<close>[)\]}*_`\"'$]{0,4})(?P<next>[.:,;!?]?)",
    re.IGNORECASE,
)
_RIGHT = (
    r"\s{1,3}(?:is|was|must\sbe|has\sto\sbe|would\sbe|seems)\s{1,3}"
    r"(?:(?:the|my|our|clearly|definitely|obviously|probably|most|more|only)\s{1,3}){0,3}"
    r"(?:correct|right|true|best|better|likely|answer|choice|option|one|it)\b"
)
# "B is correct", "C is the best option"
_CORRECT = re.compile(
    rf"(?<![\w'’.-])(?P<open>[(\[{{*_`\"'$]{{0,4}})(?P<letter>[A-Z])"
    rf"(?P<close>[)\]}}*_`\"'$]{{0,4}})(?P<next>)(?={_RIGHT})"
)
_BRACKETED = re.compile(rf"(?<!\w)(?:\(({_LETTER})\)|\*\*\(?({_LETTER})\)?[.:]?\*\*)")
_ALONE = re.compile(
    r"(?<![\w'’.-])(?:[B-HJ-Z]|[AI](?=[.,;:!?)\]*]*(?:\s*\Z|\n)|\s?(?:,|/|&|and\b|or\b)\s?[A-Z]\b))"
    r"(?![\w'’+#-]|\.\w)"
)
_SEVERAL = re.compile(
    rf"[.,:]?\s{{0,3}}(?:or|and|&|/|,|;|\+)\s{{0,3}}(?:(?:and|or|maybe|perhaps)\s){{0,2}}[(\[*\"']{{0,3}}"
    rf"(?!(?-i:a|I)\s\w){_LETTER}(?!\w)",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\s{0,3}(?:because|since|as\b|for\b|due\b|over\b|rather\b|instead\b|,|;|-|–|—|\()"
    rf"|\s*\n|\s*\Z|{_RIGHT}",
    re.I,
)
# "A is wrong", "B isn't right", "C cannot be"
_REFUTED = re.compile(
    r"\W{0,4}(?:(?:is|was|seems|looks|(?:would|can|could|must)\sbe)\s{1,3}(?:also|clearly|simply)?\s{0,3})?"
    r"(?:(?:not|never)\s(?:be|correct|right|true|the)|wrong|incorrect|false|impossible|eliminated"
    r"|excluded|ruled\sout)\b"
    r"|\W{0,4}(?:is|was|would|can|could|must|does|did|will)\s(?:not|never)\b"
    r"|\W{0,4}(?:is|was|ca|could|would|does|did|wo)n['’]t\b|\W{0,4}cannot\b|\?\sNo\b",
    re.IGNORECASE,
)
# "not A, C or D": the negation is that of each letter
_LETTERS_BEFORE = re.compile(
    rf"(?:[(*\"]?{_LETTER}[)*\"]?\s?(?:,|/|\b(?:or|nor|and)\b)\s?(?:(?:or|nor|and)\s)?(?:not\s)?){{1,9}}\Z",
    re.IGNORECASE,
)
# "Vitamin C", "type A": a letter that is part of a name; "if B is right": one that is not stated
_NAMED = re.compile(
    r"\b(?:vitamin|plan|type|grade|group|class|hepatitis|section|figure|part|point|line|team|room"
    r"|see|if|whether|than)\s\Z",
    re.IGNORECASE,
)


def read_whole_letter(text: str) -> int | None:
    """The number of the letter that is the whole text: ``B``, ``(b)``, ``**B.**``, ``option b``."""
    if len(text) > 40:
        return None
    if re.fullmatch(_LETTER, text):
        return LETTERS.index(text.lower())
    bare = re.fullmatch(
        rf"[\s(\[{{<*_`\"'$#]*(?:(?:option|choice|answer|letter)\W{{1,4}})?[(\[{{*_`\"'$]*({_LETTER})"
        r"[)\]}>*_`\"'$.:,;!\s]*",
        text,
        re.IGNORECASE,
    )
    return LETTERS.index(bare[1].lower()) if bare else None


def find_stated_letter(text: str, count: int, choices: Sequence[str]) -> int | None:
    """The letter that a sentence states; None for several letters, NOTHING for none.

    Of several statements the last one counts, as people correct themselves. A letter beside the
    text of another choice (``B. sky``) states neither, nor does a bare letter that is the text of
    another choice.
    """
    stated = NOTHING
    for found in _find_statements(text):
        if found.re is _START and (stated != NOTHING or _lists_choices(text, choices)):
            continue
        if not _is_statement(text, found, choices):
            continue
        if _SEVERAL.match(text[found.end("close") : found.end("close") + 30]):
            return None
        stated = LETTERS.index(found["letter"].lower())
        if _is_text_of_another(found, stated, choices):
            return None
        if _names_another(text[found.end() :], stated, choices):
            return None
    if stated != NOTHING:
        return stated if stated < count else None
    bracketed = {(found[1] or found[2]).lower(): found for found in _BRACKETED.finditer(text)}
    if not bracketed:
        return NOTHING
    letter, found = bracketed.popitem()
    index = LETTERS.index(letter)
    if bracketed or index >= count or _names_another(text[: found.start()], index, choices):
        return None
    return index


def _find_statements(text: str) -> list[re.Match[str]]:
    """Where a letter may be stated, in the order of the text; its beginning comes last."""
    found = [one for cue in (_CUE, _CONCLUSION, _CORRECT) for one in cue.finditer(text)]
    found.sort(key=lambda one: one.start("letter"))
    beginning = _START.match(text)
    return found if beginning is None else [*found, beginning]


def _is_statement(text: str, found: re.Match[str], choices: Sequence[str]) -> bool:
    """Whether the letter is that of a choice, and is not said to be wrong."""
    rest = text[found.end("next") : found.end("next") + 60]
    if found.re is not _CORRECT and not _is_letter_of_a_choice(found, rest):
        return False
    before = text[max(0, found.start("open") - 20) : found.start("open")]
    if _is_negated_letter(text, found.start("open")) or _NAMED.search(before):
        return False
    index = LETTERS.index(found["letter"].lower())
    return not _is_refuted(text, found.end("next"), choices[index] if index < len(choices) else "")


def _is_negated_letter(text: str, position: int) -> bool:
    """Whether a letter, or the list of letters that it ends, is negated."""
    before = text[max(0, position - 60) : position]
    if letters := _LETTERS_BEFORE.search(before):
        position -= len(letters[0])
    return is_negated(text, position)


def _is_text_of_another(found: re.Match[str], index: int, choices: Sequence[str]) -> bool:
    """Whether what is stated may be the text of another choice, which is one letter, too."""
    if "(" in found["open"] or re.search(r"\b(?:option|choice|letter)\b", found[0], re.IGNORECASE):
        return False
    letter = found["letter"].casefold()
    return any(letter == one.casefold() for at, one in enumerate(choices) if at != index)


def _names_another(text: str, index: int, choices: Sequence[str]) -> bool:
    """Whether a text is that of another choice, with nothing but punctuation around it."""
    bare = text.strip(" \t\n.,;:!*_()[]-–—").casefold()
    own = choices[index] if index < len(choices) else ""
    if not bare or bare == own.casefold():
        return False
    return any(bare == one.casefold() for one in choices if one != own)


def _is_refuted(text: str, position: int, choice: str) -> bool:
    """Whether what follows a letter, and perhaps the text of its choice, says that it is wrong."""
    rest = text[position : position + len(choice) + 44].lstrip()
    if rest[: len(choice)].casefold() == choice.casefold():
        rest = rest[len(choice) :]
    return _REFUTED.match(rest[:40]) is not None


def _lists_choices(text: str, choices: Sequence[str]) -> bool:
    """Whether the text begins with all choices as they were asked: ``A. sky``, ``B. blood``."""
    lines = [line for line in text.splitlines() if line.strip()][: len(choices)]
    return len(lines) == len(choices) > 1 and all(
        re.match(rf"\W{{0,4}}{letter}\W{{1,4}}{re.escape(choice)}", line, re.IGNORECASE)
        for letter, choice, line in zip(LETTERS, choices, lines, strict=False)
    )


def _is_letter_of_a_choice(found: re.Match[str], rest: str) -> bool:
    """Whether it is no article (a dog), no pronoun (I) and no part of a name (C major)."""
    delimited = found["next"] in (".", ":") or any(one in found["close"] for one in ")]}*`$\"'")
    if delimited or (not rest.strip() and not found["next"]):
        return True
    return found["letter"] not in "ai" and _REASON.match(found["next"] + rest) is not None


def find_lone_letter(text: str, count: int) -> int | None:
    """The one capital letter that is alone in the text and is not said to be wrong."""
    letters = set()
    for found in islice(_ALONE.finditer(text), MAX_MENTIONS):
        if _REFUTED.match(text[found.end() : found.end() + 40]):
            continue
        if _is_negated_letter(text, found.start()):
            continue
        if _NAMED.search(text[max(0, found.start() - 20) : found.start()]):
            continue
        letters.add(found[0])
    if len(letters) != 1:
        return None
    index = LETTERS.index(letters.pop().lower())
    return index if index < count else None
