"""Dates: one canonical form, ``2024-03-05``, or ``2024-03`` where no day is said."""

import datetime
import re
from collections.abc import Sequence

from adapt_jax.tasks.language.characters import normalize_widths

__all__ = ["read_date", "read_gold_date"]

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = "(?P<name>" + "|".join(f"{one[:3]}(?:{one[3:]})?" for one in _MONTHS) + r"|sept)\b\.?"
_DAY = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[0-9]{4})"
_FORMS = [
    re.compile(rf"(?<![\w.,/-]){form}(?![\w/-]|\.[0-9])", re.IGNORECASE)
    for form in (
        rf"{_YEAR}(?P<dash>[-/.])(?P<month>[0-9]{{1,2}})(?P=dash)(?P<day>[0-9]{{1,2}})"
        r"(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?",
        rf"{_DAY}(?:\s+of)?[\s-]+{_MONTH},?[\s-]+{_YEAR}",
        rf"{_MONTH}\s+(?:the\s+)?{_DAY},?\s+{_YEAR}",
        rf"(?P<day>[0-9]{{1,2}})\.\s?(?P<month>[0-9]{{1,2}})\.\s?{_YEAR}",
        rf"(?P<first>[0-9]{{1,2}})/(?P<second>[0-9]{{1,2}})/{_YEAR}",
        rf"{_MONTH},?\s+(?:of\s+)?{_YEAR}",
    )
]


def read_date(text: str, choices: Sequence[str] = ()) -> str | None:
    """The only date in a text; None without one, or with several that differ.

    ``03/04/2024`` has two readings and is none, ``25/04/2024`` and ``03.04.2024`` have one.
    """
    found: set[str] = set()
    rest = normalize_widths(text)
    for form in _FORMS:
        for match in form.finditer(rest):
            date = _to_iso(match)
            if date is None:
                return None
            found.add(date)
        rest = form.sub("|", rest)  # what a fuller form has read is read once
    return found.pop() if len(found) == 1 else None


def read_gold_date(text: str, choices: Sequence[str] = ()) -> str | None:
    """A text that is a date and nothing else."""
    bare = normalize_widths(text).strip().removesuffix(".")
    matches = (form.fullmatch(bare) for form in _FORMS)
    return next((_to_iso(match) for match in matches if match), None)


def _to_iso(match: re.Match[str]) -> str | None:
    """The date in ISO 8601; None for one that is in no calendar, or has two readings."""
    parts = match.groupdict()
    year, day = int(parts["year"]), parts.get("day")
    if parts.get("name"):
        month = next(n for n, one in enumerate(_MONTHS, 1) if one[:3] == parts["name"][:3].lower())
    elif "first" in parts:
        first, second = int(parts["first"]), int(parts["second"])
        if first != second and max(first, second) <= 12:
            return None
        month, day = min(first, second), str(max(first, second))
    else:
        month = int(parts["month"])
    try:
        date = datetime.date(year, month, int(day or 1))
    except ValueError:
        return None
    return date.isoformat() if day else f"{year:04}-{month:02}"
