"""Types and ranges of the fields of a received JSON file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FLAG", "TEXT", "Check", "find_problems", "is_number", "is_whole", "list_of", "number"]
__all__ += ["whole"]

MAX_ENTRIES = 10_000  # of a list


@dataclass(frozen=True)
class Check:
    """The values a field may have: ``expected`` in words, and a test. ``nullable``: or null."""

    expected: str
    test: Callable[[Any], bool]
    nullable: bool = False

    def find_problem(self, name: str, value: Any) -> str:
        """The problem of the field, or an empty string."""
        if value is None and self.nullable:
            return ""
        if value is not None and self.test(value):
            return ""
        shown = "null" if value is None else repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        return f"{name}: expected {self.expected}, found {shown}"


def find_problems(content: Mapping[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """The problems of the fields that are there, one text each."""
    problems = (
        check.find_problem(name, content[name]) for name, check in checks.items() if name in content
    )
    return [problem for problem in problems if problem]


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether this is a whole number of this range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether this is a finite number of this range."""
    is_number_type = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number_type and low <= value <= high  # NaN and infinity are not


def whole(low: int, high: int, nullable: bool = False) -> Check:
    """A whole number of this range."""
    expected = f"a whole number from {low} to {high}"
    return Check(expected, lambda value: is_whole(value, low, high), nullable)


def number(low: float, high: float, nullable: bool = False) -> Check:
    """A finite number of this range."""
    expected = f"a number from {low:g} to {high:g}"
    return Check(expected, lambda value: is_number(value, low, high), nullable)


def list_of(what: str, test: Callable[[Any], bool], nullable: bool = True) -> Check:
    """A list whose entries pass the test."""

    def test_all(value: Any) -> bool:
        return isinstance(value, list) and len(value) <= MAX_ENTRIES and all(map(test, value))

    return Check(f"a list of {what}", test_all, nullable)


FLAG = Check("true or false", lambda value: isinstance(value, bool))
TEXT = Check("a text", lambda value: isinstance(value, str))
