"""Wordings: texts with ``{name}`` in them, or Jinja templates, that values are put into."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.jinja_text import TemplateRefusal, list_names, render_template

__all__ = [
    "ROW",
    "check_wording",
    "fill",
    "is_jinja",
    "list_placeholders",
    "opening_of",
    "render_wording",
    "text_around_answer",
]

ROW = "row"  # by this name a Jinja wording sees all fields of a row
PLACEHOLDER = re.compile(r"\{(\w+)\}")
JINJA = re.compile(r"\{\{|\{%")
LATEX = re.compile(r"\\[a-zA-Z]+\{\{\w+\}\}")  # \boxed{{answer}} puts the answer between braces
# Stand for reasoning and answer while the words around them are found. Private characters of
# Unicode: filters such as ``upper`` and ``trim`` leave them alone.
REASONING_MARK, ANSWER_MARK = "\ue000", "\ue001"


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with each ``{name}`` of ``values`` replaced, in one pass: what is put in is never
    read as a placeholder itself, so questions may hold braces."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def is_jinja(wording: str) -> bool:
    """Whether a wording is a Jinja template: it has ``{{`` or ``{%``, but for LaTeX."""
    return JINJA.search(LATEX.sub("", wording)) is not None


def list_placeholders(wording: str, where: str) -> frozenset[str]:
    """The names that a wording puts values in for.

    Raises:
        UserError: the Jinja template has a mistake.
    """
    if not is_jinja(wording):
        return frozenset(PLACEHOLDER.findall(wording))
    try:
        return list_names(wording)
    except TemplateRefusal as refusal:
        raise UserError(f"{where}: {refusal}") from None


def check_wording(
    wording: Any, names: Collection[str], required: Collection[str], where: str
) -> None:
    """Checks the names in a wording that sees no fields of a row.

    Raises:
        UserError: it is no text, it has a name that is none of ``names``, or lacks a required one.
    """
    if not isinstance(wording, str):
        raise UserError(f"{where}: expected a text, found {wording!r:.80}")
    found = list_placeholders(wording, where)
    for name in sorted(found - set(names)):
        raise UserError(f"{where}: unknown placeholder {{{name}}}{nearest(name, names)}")
    if lacking := sorted(set(required) - found):
        raise UserError(f"{where}: lacks {', '.join(f'{{{name}}}' for name in lacking)}")


def render_wording(wording: str, values: Mapping[str, Any], where: str) -> str:
    """The wording with its values put in.

    Raises:
        UserError: the Jinja template has a name without a value, does not end, or is refused by
            the sandbox.
    """
    if not is_jinja(wording):
        return fill(wording, values)
    try:
        return render_template(wording, values)
    except TemplateRefusal as refusal:
        raise UserError(f"{where}: {refusal}") from None


def opening_of(wording: str) -> str:
    """The fixed words at the beginning of a wording."""
    first = re.search(r"\{[{%#]" if is_jinja(wording) else r"\{\w+\}", wording)
    return wording[: first.start()] if first else wording


@lru_cache(maxsize=1024)
def text_around_answer(wording: str, where: str) -> tuple[str, str]:
    """The words before the answer, from the reasoning on where there is one, and those after it.

    Raises:
        UserError: a Jinja template does not write the answer once, so it is not found again.
    """
    values = {"reasoning": REASONING_MARK, "answer": ANSWER_MARK}
    text = render_wording(wording, values, where)
    if is_jinja(wording) and text.count(ANSWER_MARK) != 1:
        raise UserError(f"{where}: expected {{{{ answer }}}} once, as it is, so that it is found")
    before, after = text.partition(ANSWER_MARK)[0], text.rpartition(ANSWER_MARK)[2]
    return before.rpartition(REASONING_MARK)[2], after
