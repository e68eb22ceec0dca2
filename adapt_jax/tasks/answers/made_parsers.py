"""Readers that a task makes by an expression: ``regex:PATTERN``."""

from collections.abc import Callable, Sequence
from typing import Any

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.patterns import BoundedPatterns

__all__ = ["Reader", "fold_spaces", "make_regex_readers"]

Reader = Callable[[str, Sequence[str]], str | None]
MATCH_SECONDS = 1.0  # for a pattern in one text; a text that takes longer has no answer


def make_regex_readers(pattern: str) -> tuple[Reader, Reader]:
    """What reads answers and gold answers by a regular expression.

    The answer is the first match's only group, or all of it where it has none. A gold answer may
    also be written bare, as one line.

    Raises:
        UserError: it is no regular expression, or has several groups.
    """
    where = f"answer_parser 'regex:{pattern:.80}'"
    compiled = BoundedPatterns(where).compile(pattern)
    if compiled.groups > 1:
        raise UserError(f"{where}: expected one group or none, found {compiled.groups}")

    def read(text: str, choices: Sequence[str] = ()) -> str | None:
        return _match(compiled, "search", text)

    def read_gold(text: str, choices: Sequence[str] = ()) -> str | None:
        if (answer := _match(compiled, "fullmatch", text.strip())) is not None:
            return answer
        bare = text.strip()
        return None if "\n" in bare else fold_spaces(bare)

    return read, read_gold


def _match(compiled: Any, action: str, text: str) -> str | None:
    try:
        found = getattr(compiled, action)(text, timeout=MATCH_SECONDS)
    except (TimeoutError, RecursionError, MemoryError):
        return None
    if found is None:
        return None
    return fold_spaces(found[compiled.groups] or "")


def fold_spaces(text: str) -> str | None:
    """The text with white space folded; None where nothing is left."""
    return " ".join(text.split()) or None
