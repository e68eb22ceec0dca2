"""Which of a question's choices an answer means: by its letter, or by the choice's own text.

Two choices are never taken for one another. An answer is compared as written first, then in
steps that forgive more (outer punctuation, letter case, hyphens); a step in which two choices are
alike is left out for these. What may mean several choices gives None.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from adapt_jax.tasks.answers.numbers import read_gold_number
from adapt_jax.tasks.language.characters import normalize_widths
from adapt_jax.tasks.language.compounds import is_longer_phrase
from adapt_jax.tasks.language.letters import (
    LETTERS,
    NOTHING,
    find_lone_letter,
    find_stated_letter,
    read_whole_letter,
)
from adapt_jax.tasks.language.negation import is_negated

__all__ = [
    "find_choice",
    "find_equal",
    "find_label",
    "fold_text",
    "name_option",
]

MAX_ANSWER_LENGTH = 4_000  # characters in which a choice is looked for
MAX_MENTIONS = 100  # of choices in a text

MAX_AROUND = 20  # characters of emphasis, quotes and punctuation around a choice

_CLOSING = ".,;:!"
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
        bare = text.rstrip(_CLOSING) if len(text) > 1 else text
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


def _peel(text: str) -> Iterator[str]:
    """The text without one layer after the other of what is written around a choice."""
    yield text
    while True:
        yield (text := text.strip())
        for opening, closing in _WRAPPERS:
            wrapped = text.startswith(opening) and text.endswith(closing)
            if wrapped and len(text) > len(opening) + len(closing):
                text = text[len(opening) : len(text) - len(closing)]
                break
        else:
            if len(text) < 2 or text[-1] not in _CLOSING:
                return
            text = text[:-1]


def find_equal(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice that the whole text is."""
    exact = _index_keys(tuple(choices))[0]
    longest = max(map(len, exact), default=0)
    if len(text) <= longest + MAX_AROUND:
        for inner in islice(_peel(text), MAX_AROUND):
            if (index := exact.get(inner)) is not None:
                return index
    for fold, table in zip(_LEVELS, _index_keys(tuple(choices)), strict=True):
        key = fold(text)
        if key in table:
            return table[key]
    return None


# ---- a choice within a text


_BEFORE = r"(?<![^\s(\[{\"'“‘«*_`:=$>])"
_AFTER = r"(?=[)\]}\"'”’»*_`$<.,;:!?]*(?:\s|\Z|<))"


def find_mentioned(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice that is in the text as whole words; longer ones win."""
    text = text[:MAX_ANSWER_LENGTH]
    tables = _index_keys(tuple(choices))
    # by letter case where two choices differ in nothing else
    by_case = None in tables[3].values()
    plain = " ".join(normalize_widths(text).split())
    folded = plain if by_case else plain.casefold()
    table = tables[2 if by_case else 3]
    # first choices of several words, however they are joined: card_arrival, card arrival
    joined = {key: index for key, index in tables[4].items() if " " in key and index is not None}
    if joined and not by_case:
        spaced = _SEPARATORS.sub(" ", folded)
        found = _find_mentioned(spaced, "", joined)
        if found is None:
            return None
        if found != NOTHING:
            # "card" within "card arrival" is no choice of its own
            rest = spaced.replace(_LEVELS[4](choices[found]), "\n")
            other = _find_mentioned(rest, rest, table)
            return found if other in (NOTHING, found) else None
    found = _find_mentioned(folded, plain, table)
    return None if found == NOTHING else found


def _find_mentioned(text: str, original: str, table: Mapping[str, int | None]) -> int | None:
    """Index of the only key in the text, None for several, NOTHING for none.

    Args:
        text: in the letter case of the keys.
        original: the text in its own letter case, in which "a", "i" and "I" are words.
    """
    present = [key for key in table if key and key in text]
    if not present:
        return NOTHING
    keys = "|".join(map(re.escape, sorted(present, key=len, reverse=True)))
    seen: int | None = NOTHING
    for found in islice(re.finditer(f"{_BEFORE}(?:{keys}){_AFTER}", text), MAX_MENTIONS):
        if is_negated(text, found.start()) or _follows_no(text, found.start(), table):
            continue
        if len(found[0]) == 1 and original[found.start() : found.end()] in ("a", "i", "I"):
            continue  # an article or a pronoun
        index = table[found[0]]
        if index is None or seen not in (NOTHING, index):
            return None
        seen = index
    return seen


def _follows_no(text: str, position: int, table: Mapping[str, int | None]) -> bool:
    """Whether "no" comes directly before, as in "no blood", and is no choice itself."""
    return "no" not in table and re.search(r"\bno\s\Z", text[:position][-4:]) is not None


# "Answer: X", "**Label:** X", "The category is X"
_ANSWER_LINE = re.compile(
    r"[*_#]{0,3}\s?(?:(?:final|correct|my|the)\s){0,2}(?:answer|label|category|class)"
    r"[*_]{0,2}\s?(?:is|:|=):?[*_]{0,2}\s{1,3}(.*)",
    re.IGNORECASE,
)


def find_label(text: str, choices: Sequence[str]) -> int | None:
    """Index of the label that the text is, or the only one in it."""
    if (index := _index_keys(tuple(choices))[0].get(text)) is not None:
        return index
    text = text[:MAX_ANSWER_LENGTH]
    if (index := find_equal(text, choices)) is not None:
        return index
    line = text.strip().partition("\n")[0]
    if (index := find_equal(line, choices)) is not None:
        return index
    stated = _ANSWER_LINE.match(line)
    # "the label is a ..." may go on with an article
    if stated and (stated[1] not in ("a", "i", "I") or stated[1] in choices):
        if (index := find_equal(stated[1], choices)) is not None:
            return index
    return find_mentioned(text, choices)


def find_choice(text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that an answer means, by its letter or its text.

    A letter in brackets or with a cue ("the answer is C") wins over the text of a choice. A bare
    letter that is also the text of another choice is ambiguous. Without choices any letter counts.
    """
    exact = _index_keys(tuple(choices))[0]
    for written in (text, text.strip()):
        # "A-" is a choice, not a dash after a letter
        if written in exact and not re.fullmatch("[A-Za-z]", written):
            return exact[written]
    text = normalize_widths(_strip_tex(text[:MAX_ANSWER_LENGTH])).strip()
    count = len(choices) or len(LETTERS)
    lettered = count <= len(LETTERS)
    index = find_equal(text, choices) if choices else None
    letter = read_whole_letter(text) if lettered else None
    if letter is not None and letter < count:
        clear = index in (None, letter) or (text[0], text[-1]) == ("(", ")")
        return letter if clear else None
    if index is not None:
        return index
    if lettered:
        found = find_stated_letter(text, count, choices)
        if found is not NOTHING:
            return found
    if not choices:
        return None
    line = _SEPARATORS.sub(" ", text.partition("\n")[0][:MAX_ANSWER_LENGTH])
    if is_longer_phrase(line, _index_keys(tuple(choices))[4]):
        return None
    index = find_mentioned(text, choices)
    if index is None and lettered and not _mentions_any(text, choices):
        index = find_lone_letter(text, count)
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
