"""Regular expressions that a user or a file brings: a wrong one is a line, and each one ends.

A pattern such as ``(a+)+$`` takes time that doubles with each letter of a text. So every match has
a limit of time, and all matches of one place together have another.
"""

import time
from typing import Any, Literal

import regex

from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError

__all__ = ["BoundedPatterns"]

MAX_MATCH_SECONDS = 2.0  # of processor time, for one pattern in one text
MAX_TOTAL_SECONDS = 60.0  # for all matches together


class BoundedPatterns:
    """Finds patterns in texts, by the syntax of Python's ``re``, in bounded time.

    Args:
        where: the file or key that the patterns are from; it begins every message.
        total_seconds: the limit of processor time for all matches together.
    """

    def __init__(self, where: str, total_seconds: float = MAX_TOTAL_SECONDS) -> None:
        self.where, self.seconds_left = where, total_seconds

    def compile(self, pattern: str, flags: int = 0) -> Any:
        """The compiled pattern, of the library ``regex``.

        Raises:
            UserError: it is no regular expression.
        """
        try:
            return regex.compile(pattern, flags)
        except (regex.error, RecursionError, MemoryError, OverflowError, ValueError) as error:
            shown, reason = _show(pattern), display_text(str(error), 100)
            raise UserError(
                f"{self.where}: {shown} is no regular expression ({reason or 'too large'})"
            ) from None

    def search(self, pattern: Any, text: str) -> Any:
        """The first match of a pattern, compiled or not, within the text; None without one.

        Raises:
            UserError: it is no regular expression, or takes too long.
        """
        return self._run("search", pattern, text)

    def fullmatch(self, pattern: Any, text: str) -> Any:
        """The match of the whole text, as ``search``."""
        return self._run("fullmatch", pattern, text)

    def remove(self, pattern: Any, text: str) -> str:
        """The text without all that the pattern matches, as ``search``."""
        return str(self._run("sub", pattern, text))

    def _run(self, action: Literal["search", "fullmatch", "sub"], pattern: Any, text: str) -> Any:
        compiled = self.compile(pattern) if isinstance(pattern, str) else pattern
        arguments = ("", text) if action == "sub" else (text,)
        limit = min(MAX_MATCH_SECONDS, self.seconds_left)
        started = time.thread_time()
        try:
            if limit <= 0:
                raise TimeoutError
            return getattr(compiled, action)(*arguments, timeout=limit)
        except (TimeoutError, RecursionError, MemoryError):
            self.seconds_left -= limit  # it is spent by the clock of `regex`, which is another one
            raise UserError(
                f"{self.where}: the regular expression {_show(compiled.pattern)} takes too long "
                "to match"
            ) from None
        finally:
            self.seconds_left -= time.thread_time() - started


def _show(pattern: str) -> str:
    return display_text(repr(pattern), 100)
