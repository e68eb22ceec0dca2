"""Answers in LaTeX or plain mathematics, read and compared by the library math-verify."""

import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

from adapt_jax.tasks.answers.tolerance import Tolerance
from adapt_jax.utils.errors import UserError

__all__ = ["MATH_CONTINUATIONS", "find_math_version", "match_math", "read_math"]

# what may follow an expression and make another one of it
MATH_CONTINUATIONS = (
    *("^2", ".5", ",000", "!", "/2", "(x)", "_2", " or $7$", " and $7$", ", $7$"),
    *(" or 7", " and 7"),
    *(f" {sign} 7" for sign in ("+", "-", "*", "/", "=", "\\cdot", "\\times", "\\cup", "\\pm")),
)


def _import_math_verify() -> Any:
    try:
        import math_verify
    except ImportError:
        raise UserError(
            "the answer parser 'math' needs math-verify: pip install 'adapt-jax[math]'"
        ) from None
    return math_verify


MAX_MATH_LENGTH = 2_000  # characters, the last ones of a text
MATH_TIMEOUT = 2  # seconds, for one text or one comparison


def _choose_math_timeout() -> int | None:
    """math-verify stops by a signal, which only the main thread may receive."""
    return MATH_TIMEOUT if threading.current_thread() is threading.main_thread() else None


@lru_cache(maxsize=4096)
def _parse_math(text: str) -> tuple[Any, ...]:
    """SymPy values in a LaTeX or plain text, best first."""
    text = text[-MAX_MATH_LENGTH:]
    return tuple(_import_math_verify().parse(text, parsing_timeout=_choose_math_timeout()))


def read_math(text: str) -> str | None:
    """An expression, set, interval, equation or matrix, as math-verify reads it.

    The canonical form is LaTeX between dollar signs.
    """
    found = _parse_math(text)
    if not found:
        return None
    import sympy

    return f"${sympy.latex(found[0])}$" if isinstance(found[0], sympy.Basic) else str(found[0])


def match_math(one: str, other: str, tolerance: Tolerance) -> bool:
    """Whether two expressions are equal, or are numbers that are near enough."""
    if one == other:
        return True
    given, gold = list(_parse_math(one)), list(_parse_math(other))
    timeout = _choose_math_timeout()
    if not gold or not given:
        return False
    if _import_math_verify().verify(gold, given, timeout_seconds=timeout):
        return True
    values = [_to_float(found) for found in (given, gold)] if tolerance else [None]
    return None not in values and tolerance.accepts(*values)


def _to_float(found: Sequence[Any]) -> float | None:
    """The value of an expression that is one real number in plain digits, and not too large."""
    import sympy

    for value in found:
        if isinstance(value, sympy.Number | sympy.Rational) and value.is_finite:
            return float(value)
    return None


def find_math_version(ours: int) -> str:
    """The versions that readings depend on: our own, and that of the library if installed."""
    try:
        return f"{ours}, math-verify {metadata.version('math-verify')}"
    except metadata.PackageNotFoundError:
        return str(ours)
