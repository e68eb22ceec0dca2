"""What a reader should know before trusting an accuracy, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapt_jax.evaluation.metrics import ScoredPrediction
from adapt_jax.tasks.answers import shorten_parser_name
from adapt_jax.tasks.task import Task
from adapt_jax.utils.display_text import quote_text

__all__ = ["MIN_SHARE", "describe_problems"]

MIN_SHARE = 0.05  # a share up to this one is not worth a sentence


def describe_problems(
    task: Task, rows: Sequence[ScoredPrediction], measured: Mapping[str, Any]
) -> list[str]:
    """A sentence for each thing that went wrong with more than 5 % of the answers.

    Where no question got a readable answer, one sentence says so, and why.

    Args:
        measured: what METRICS measures on the rows, by name.
    """
    found = {
        name: sentence.format(
            share=f"{100 * measured[name]:.1f} %", parser=shorten_parser_name(task.parser)
        )
        for name, sentence in _SENTENCES.items()
        if (measured[name] or 0) > MIN_SHARE
    }
    if any(name in found for name in ("cut_off", "unreadable")):
        last = "unreadable" if "unreadable" in found else "cut_off"
        found[last] += _quote_unread_text(rows)
    no_answer = {name: found.pop(name) for name in _NO_ANSWER if name in found}
    if all(row.prediction.answer is None for row in rows):
        line = f"none of the {len(rows)} questions got an answer that can be read"
        return [": ".join(filter(None, (line, "; ".join(no_answer.values())))), *found.values()]
    return [
        *(f"{one}; they count as {_NO_ANSWER[name]}" for name, one in no_answer.items()),
        *found.values(),
    ]


_NO_ANSWER = {"too_long": "wrong", "cut_off": "no answer", "unreadable": "no answer"}
_SENTENCES = {  # by the metric that it speaks of
    "too_long": (
        "{share} of the questions do not fit the decoder's context together with the prompt"
    ),
    "cut_off": (
        "{share} of the answers were cut off by max_new_tokens before the answer was stated"
    ),
    "unreadable": (
        "{share} of the answers ended by themselves and cannot be read by the parser {parser!r}"
    ),
    "no_stop": (
        "{share} of the answers ran on to max_new_tokens after the answer was stated: no stop "
        "string or end of text came"
    ),
    "repeat_share": (
        "{share} of the sampled answers repeat another one's reasoning; a higher temperature "
        "gives more different ones"
    ),
}


def _quote_unread_text(rows: Sequence[ScoredPrediction]) -> str:
    """The first text without a readable answer, in parentheses."""
    texts = [
        candidate.text
        for row in rows
        for candidate in row.prediction.candidates
        if candidate.answer is None and not row.prediction.too_long
    ]
    written = next((text for text in texts if text.strip()), None)
    return " (they are empty)" if written is None else f" (the first: {quote_text(written)})"
