"""Mistakes of the user, reported in one line."""

import difflib
from collections.abc import Iterable

from adapt_jax.utils.display_text import display_text

__all__ = ["UserError", "nearest"]


MAX_MESSAGE = 6_000  # letters; lists of tensors are long
MAX_COMPARED = 200  # letters of a word for which the nearest is looked for


class UserError(Exception):
    """Something the user can mend: the command line prints it as one line and exits with 2.

    The message is one line of bounded length, whatever names of foreign files it holds.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > MAX_MESSAGE or not message.isprintable():
            message = display_text(message, MAX_MESSAGE)
        super().__init__(message)


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest valid choice, or an empty string."""
    if len(word) > MAX_COMPARED:
        return ""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""
