"""Answers that are yes, no or maybe."""

import re
from collections.abc import Sequence

from adapt_jax.tasks.answers.choices import fold_text
from adapt_jax.tasks.language.characters import normalize_widths
from adapt_jax.tasks.language.negation import is_negated

__all__ = ["YES_NO_CONTINUATIONS", "read_gold_yes_no", "read_yes_no"]

# not "no one", not "Yes?"
_YES_NO = re.compile(
    r"\b(?:yes|no(?![\s-](?:one|doubt|question|idea|matter)\b)|maybe)\b(?!\s?\?)", re.IGNORECASE
)
# "yes and no", "yes/no", "no, yes": what is joined to the first word
_JOINED = r"(?:[ ,/]{1,3}(?:and|or)?[ ,/]{0,3})"
_FIRST_WORD = re.compile(rf"\W*({_YES_NO.pattern})(?:{_JOINED}({_YES_NO.pattern}))?")

# what may follow and make another answer of it, or none
YES_NO_CONTINUATIONS = [
    joint + word
    for joint in (" and ", " or ", ", ", "/", " ", "-")
    for word in ("yes", "no", "maybe", "one", "doubt", "question", "idea", "matter")
]


def read_yes_no(text: str, choices: Sequence[str] = ()) -> str | None:
    """``yes``, ``no`` or ``maybe``: the first word, or the only one of the three that is said.

    Two of them that are joined ("yes and no", "no, yes") abstain.
    """
    folded = normalize_widths(text).lower()
    if first := _FIRST_WORD.match(folded):
        return first[1] if first[2] in (None, first[1]) else None
    words = {one[0] for one in _YES_NO.finditer(folded) if not is_negated(folded, one.start())}
    return words.pop() if len(words) == 1 else None


def read_gold_yes_no(text: str, choices: Sequence[str] = ()) -> str | None:
    """The word that a gold answer is; None where it is anything else."""
    word = fold_text(text)
    return word if _YES_NO.fullmatch(word) else None
