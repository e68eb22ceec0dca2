"""Which of a question's choices an answer means: by its letter, or by the choice's own text.

Two choices are never taken for one another. An answer is compared as it stands first, then in
steps that forgive more (outer punctuation, letter case, hyphens); a step in which two choices are
alike is left out for these. What may mean several choices gives None.
"""

import re
import string
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice

from adapt_jax.tasks.characters import normalize_widths
from adapt_jax.tasks.negation import is_negated
from adapt_jax.tasks.numbers import read_gold_number

__all__ = [
    "LETTERS",
    "find_choice",
    "find_equal",
    "find_label",
    "fold_text",
    "name_option",
]

LETTERS = string.ascii_lowercase
MAX_ANSWER_LENGTH = 4_000  # characters in which a choice is looked for
MAX_MENTIONS = 100  # of choices in a text

_WRAPPERS = (("**", "**"), ("__", "__"), ("$", "$"), ("(", ")"), ("[", "]"), ("{", "}")) + tuple(
    zip("*_`'\"“‘«<", "*_`'\"”’»>", strict=True)
)
_TEX_WRAPPER = re.compile(r"\\(?:boxed|fbox|text|textbf|mathbf|mathrm|mathbb)\s?\{([^{}]*)\}")
_SEPARATORS = re.compile(r"(?<=\w)[\s_-]+(?=\w)|(?<=[^\W_])_+(?=[^\W_])")


def name_option(index: int, choices: Sequence[str]) -> str:
    """The canonical answer for a choice: its letter, or its text where letters do not suffice.

    The letter is put in brackets where it is also the text of another choice.
    """
    return _name_options(tuple(choices))[index]


@lru_cache(maxsize=1024)
def _name_options(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(choices) > len(LETTERS):
        return choices
    texts = [_fold_case(choice) for choice in choices]
    names = []
    for index, letter in enumerate(LETTERS[: len(choices)]):
        is_text = letter in texts[:index] + texts[index + 1 :]
        names.append(f"({letter})" if is_text else letter)
    return tuple(names)


# ---- equality, from strict to forgiving


def _strip(text: str) -> str:
    return text.strip()


def _unwrap(text: str) -> str:
    """Without closing punctuation, quotes, brackets and marks of emphasis around the whole."""
    text = " ".join(normalize_widths(text).split())
    while True:
        bare = text.rstrip(".,;:!") if len(text) > 1 else text
        for opening, closing in _WRAPPERS:
            inner = bare[len(opening) : len(bare) - len(closing)]
            wrapped = bare.startswith(opening) and bare.endswith(closing)
            if wrapped and inner.strip() and opening not in inner and closing not in inner:
                bare = inner.strip()
                break
        bare = bare.strip() or text
        if bare == text:
            return text
        text = bare


def _fold_case(text: str) -> str:
    return _unwrap(text).casefold()


def fold_text(text: str) -> str:
    """Letter case, outer punctuation and the kind of separator (space, _, -) made one."""
    folded = _fold_case(text)
    return _SEPARATORS.sub(" ", folded).strip() or folded


_LEVELS: tuple[Callable[[str], str], ...] = (str, _strip, _unwrap, _fold_case, fold_text)


@lru_cache(maxsize=1024)
def _index_keys(choices: tuple[str, ...]) -> tuple[dict[str, int | None], ...]:
    """For each level the choice with a key; None where several have it."""
    tables = []
    for fold in _LEVELS:
        table: dict[str, int | None] = {}
        for index, choice in enumerate(choices):
            key = fold(choice)
            table[key] = index if table.get(key, index) == index else None
        tables.append(table)
    return tuple(tables)


def find_equal(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice that the whole text is."""
    for fold, table in zip(_LEVELS, _index_keys(tuple(choices)), strict=True):
        key = fold(text)
        if key in table:
            return table[key]
    return None


# ---- a choice within a text


_BEFORE = r"(?<![^\s(\[{\"'“‘«*_`:=$>])"
_AFTER = r"(?=[)\]}\"'”’»*_`$<.,;:!?]*(?:\s|\Z|<))"


def find_mentioned(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice that stands in the text as whole words; longer ones win."""
    text = text[:MAX_ANSWER_LENGTH]
    tables = _index_keys(tuple(choices))
    # by letter case where two choices differ in nothing else
    by_case = None in tables[3].values()
    plain = " ".join(normalize_widths(text).split())
    folded = plain if by_case else plain.casefold()
    table = tables[2 if by_case else 3]
    if (found := _find_mentioned(folded, plain, table)) is not _NOTHING:
        return found
    # then choices of several words, however they are joined: card_arrival, card arrival
    table = {key: index for key, index in tables[4].items() if " " in key}
    if by_case or not table:
        return None
    found = _find_mentioned(_SEPARATORS.sub(" ", folded), "", table)
    return None if found is _NOTHING else found


_NOTHING = -1


def _find_mentioned(text: str, written: str, table: dict[str, int | None]) -> int | None:
    """Index of the only key in the text, None for several, _NOTHING for none.

    ``written`` is the text in its own letter case: a single letter counts only as it is written.
    """
    present = [key for key in table if key and key in text]
    if not present:
        return _NOTHING
    keys = "|".join(map(re.escape, sorted(present, key=len, reverse=True)))
    seen: int | None = _NOTHING
    for found in islice(re.finditer(f"{_BEFORE}(?:{keys}){_AFTER}", text), MAX_MENTIONS):
        if is_negated(text, found.start()):
            continue
        if len(found[0]) == 1 and written[found.start() : found.end()] in ("a", "i", "I"):
            continue  # an article or a pronoun
        index = table[found[0]]
        if index is None or seen not in (_NOTHING, index):
            return None
        seen = index
    return seen


def find_label(text: str, choices: Sequence[str]) -> int | None:
    """Index of the label that the text is, or that alone stands in it."""
    if text in choices:
        return list(choices).index(text)
    text = text[:MAX_ANSWER_LENGTH]
    if (index := find_equal(text, choices)) is not None:
        return index
    if (index := find_equal(text.strip().partition("\n")[0], choices)) is not None:
        return index
    return find_mentioned(text, choices)


# ---- letters


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
_BRACKETED = re.compile(rf"(?<!\w)(?:\(({_LETTER})\)|\*\*\(?({_LETTER})\)?[.:]?\*\*)")
_ALONE = re.compile(
    r"(?<![\w'’.-])(?:[B-HJ-Z]|[AI](?=[.,;:!?)\]*]*(?:\s*\Z|\n)|\s?(?:,|/|&|and\b|or\b)\s?[A-Z]\b))"
    r"(?![\w'’+#-]|\.\w)"
)
_SEVERAL = re.compile(
    rf"[.,:]?\s{{0,3}}(?:or|and|&|/|,|\+)\s{{0,3}}(?:and\s|or\s)?[(\[*\"']{{0,3}}{_LETTER}(?!\w)",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\s{0,3}(?:because|since|as|is|was|for|due|would|seems|,|;|-|–|—|\()|\s*\n|\s*\Z", re.I
)
# "A is wrong", "B isn't right", "C cannot be"
_REFUTED = re.compile(
    r"\W{0,4}(?:(?:is|was|seems|looks|(?:would|can|could|must)\sbe)\s{1,3}(?:also|clearly|simply)?\s{0,3})?"
    r"(?:not|never|wrong|incorrect|false|impossible|eliminated|excluded|ruled\sout)\b"
    r"|\W{0,4}(?:is|was|ca|could|would|does|did|wo)n['’]t\b|\W{0,4}cannot\b",
    re.IGNORECASE,
)


def find_choice(text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that an answer means, by its letter or its text.

    A letter in brackets or with a cue ("the answer is C") wins over the text of a choice. A bare
    letter that is also the text of another choice is ambiguous. Without choices any letter counts.
    """
    written = text.strip()
    if written in choices and not re.fullmatch(_LETTER, written):
        return list(choices).index(written)  # "A-" is a choice, not a dash behind a letter
    text = normalize_widths(_strip_tex(text[:MAX_ANSWER_LENGTH])).strip()
    count = len(choices) or len(LETTERS)
    lettered = count <= len(LETTERS)
    index = find_equal(text, choices) if choices else None
    letter = _read_whole_letter(text) if lettered else None
    if letter is not None and letter < count:
        clear = index in (None, letter) or (text[0], text[-1]) == ("(", ")")
        return letter if clear else None
    if index is not None:
        return index
    if lettered:
        found = _find_stated_letter(text, count, choices)
        if found is not _NOTHING:
            return found
    if not choices:
        return None
    index = find_mentioned(text, choices)
    if index is None and lettered and not _mentions_any(text, choices):
        index = _find_lone_letter(text, count)
    return _find_value(text, choices) if index is None else index


def _strip_tex(text: str) -> str:
    """The content of the last ``\\boxed{}`` where there is one; other LaTeX wrappers removed."""
    if "\\" not in text:
        return text
    boxes = re.findall(r"\\(?:boxed|fbox)\s?\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    text = boxes[-1] if boxes else text
    for _ in range(3):
        text = _TEX_WRAPPER.sub(r"\1", text)
    return text


def _read_whole_letter(text: str) -> int | None:
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


def _find_stated_letter(text: str, count: int, choices: Sequence[str]) -> int | None:
    """The letter that a sentence states; None for several letters, _NOTHING for none."""
    stated = _NOTHING
    for found in (*_CUE.finditer(text), _START.match(text)):
        if found is None or (found.re is _START and stated != _NOTHING):
            continue
        rest = text[found.end("next") : found.end("next") + 40]
        if not _is_letter_of_a_choice(found, rest):
            continue
        index = LETTERS.index(found["letter"].lower())
        choice = choices[index] if index < len(choices) else ""
        if _is_refuted(text, found.end("next"), choice):
            continue
        if found.re is _START and _lists_choices(text, choices):
            continue
        if _SEVERAL.match(text[found.end("close") : found.end("close") + 20]):
            return None
        stated = index
    if stated != _NOTHING:
        return stated if stated < count else None
    bracketed = {(one or other).lower() for one, other in _BRACKETED.findall(text)}
    if not bracketed:
        return _NOTHING
    index = LETTERS.index(bracketed.pop())
    return index if not bracketed and index < count else None


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


def _find_lone_letter(text: str, count: int) -> int | None:
    """The one capital letter that stands alone in the text."""
    found = [
        one
        for one in islice(_ALONE.finditer(text), MAX_MENTIONS)
        if not _REFUTED.match(text[one.end() : one.end() + 40])
    ]
    if len({one[0] for one in found}) != 1:
        return None
    if any(is_negated(text, one.start()) for one in found):
        return None
    index = LETTERS.index(found[0][0].lower())
    return index if index < count else None


def _mentions_any(text: str, choices: Sequence[str]) -> bool:
    folded = " ".join(normalize_widths(text[:MAX_ANSWER_LENGTH]).split()).casefold()
    return any(len(key) > 1 and key in folded for key in _index_keys(tuple(choices))[3])


@lru_cache(maxsize=1024)
def _index_values(choices: tuple[str, ...]) -> dict[str, int | None]:
    table: dict[str, int | None] = {}
    for index, choice in enumerate(choices):
        value = read_gold_number(re.sub(r"\A\(?[A-Za-z][).:]\s*", "", choice))
        if value is not None:
            table[value] = index if value not in table else None
    return table


def _find_value(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice whose number the text is: ``21`` for ``$21.00``."""
    value = read_gold_number(text) if len(text) <= 100 else None
    return None if value is None else _index_values(tuple(choices)).get(value)
