"""Answers in a text that was cut off, by the limit of new tokens.

An answer counts only where nothing that may have followed makes another one of it: ``5`` may be
the beginning of ``50``, ``5 m`` of ``5 million``, ``New Y`` of ``New York``; ``5. Then`` and
``(B)`` are complete.
"""

import re
from collections.abc import Iterable, Sequence

from adapt_jax.tasks.answers.parsers import find_parser, read_answer
from adapt_jax.tasks.templates import Template

__all__ = ["read_cut_answer"]

_AMOUNT = re.compile(r"(?<!\$)\$[0-9][0-9,.]*(?=[.,;:)]?\s)")
_GROUP = re.compile(r"\d\s+\d+\Z")  # "1 0" may become "1 000"


def read_cut_answer(
    parser: str, text: str, template: Template, choices: Sequence[str] = ()
) -> str | None:
    """The canonical answer in a text that was cut off; None unless it is complete.

    It is complete where the text reads the same without its last word, which may be half a word,
    and with everything that the parser's ``list_continuations`` says may follow; where it does not
    say so, with another word.
    """
    parts = find_parser(parser)
    if parts.accepts_cut_text:
        return read_answer(parser, text, template, choices)
    markers = template.list_markers()
    if markers and template.split_reasoning(text)[1] == text:
        return None  # the text has not come to its answer
    if not markers and parts.read_unmarked is not parts.read:
        return None  # the last number of a text is known at its end
    continuations = parts.list_continuations(choices)
    if not continuations:
        text = text.rstrip(" \t")  # the line may go on
    last = "" if text[-1:].isspace() else "".join(text.split()[-1:])
    without_last = text.removesuffix(last)
    if continuations and re.search(r"[^\w\s]\Z", text):
        without_last = text  # the last word ends with a bracket or a stop: it is no half word
    if _GROUP.search(text) or not _get_stated(template, without_last):
        return None
    if parser == "math" and _is_open(_get_stated(template, text)):
        return None
    answer = read_answer(parser, text, template, choices)
    if answer is None:
        return None
    others = [without_last, *_continue(text, continuations), *_continue_marker(text, markers)]
    if not continuations:
        others += [text + "x", text + " x"]  # it may go on in any way
    for other in others:
        if not _get_stated(template, other):
            return None
        if read_answer(parser, other, template, choices) != answer:
            return None
    return answer


def _is_open(text: str) -> bool:
    """Whether a formula is begun and not ended; an amount such as $18 is no formula."""
    text = _AMOUNT.sub("", text)
    return text.count("{") > text.count("}") or text.count("$") % 2 == 1


def _get_stated(template: Template, text: str) -> str:
    return template.split_reasoning(text)[1].strip()


def _continue(text: str, continuations: Iterable[str]) -> Iterable[str]:
    """The text with the rest of each continuation that its end may be the beginning of."""
    folded = text.casefold()
    for continuation in continuations:
        for length in range(len(continuation) - 1, 0, -1):
            if _ends_with(folded, continuation[:length].casefold()):
                yield text + continuation[length:]
                break


def _ends_with(text: str, start: str) -> bool:
    """Whether the text ends with the beginning of a continuation, at the border of a word."""
    at = len(text) - len(start)
    return text.endswith(start) and not (start[0].isalnum() and at > 0 and text[at - 1].isalnum())


def _continue_marker(text: str, markers: Sequence[str]) -> Iterable[str]:
    """The text that may go on with another "The answer is", of which it has a word or more."""
    for marker in markers:
        first = marker.find(" ") + 1
        if first:
            for other in _continue(text, [marker]):
                if len(marker) - (len(other) - len(text)) >= first:
                    yield other
