"""What a reader should know before trusting an accuracy, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapt_jax.evaluation.metrics import ScoredPrediction
from adapt_jax.tasks.task import Task
from adapt_jax.utils.display_text import quote_text

__all__ = ["MIN_SHARE", "describe_problems"]

MIN_SHARE = 0.05  # a share up to this one is not worth a sentence


def describe_problems(
    task: Task, rows: Sequence[ScoredPrediction], measured: Mapping[str, Any]
) -> list[str]:
    """A sentence for each thing that went wrong with more than 5 % of the answers.

    Args:
        measured: what METRICS measures on the rows, by name.
    """
    sentences = []
    for name, sentence in _SENTENCES.items():
        share = measured[name]
        if share is not None and share > MIN_SHARE:
            sentences.append(sentence.format(share=f"{100 * share:.1f} %", parser=task.parser))
    if all(row.prediction.answer is None for row in rows):
        sentences.insert(0, f"none of the {len(rows)} questions got an answer that can be read")
    unread = _find_unread_texts(rows)
    written = [text for text in unread if text.strip()]
    if sentences and written:
        sentences.append(f"the first text without a readable answer is {quote_text(written[0])}")
    elif sentences and unread:
        sentences.append("the texts without a readable answer are empty")
    return sentences


_SENTENCES = {  # by the metric that it speaks of
    "too_long": (
        "{share} of the questions do not fit the decoder's context together with the prompt; they "
        "count as wrong"
    ),
    "cut_off": (
        "{share} of the answers were cut off by max_new_tokens before the answer was stated; they "
        "count as no answer"
    ),
    "unreadable": (
        "{share} of the answers ended by themselves and cannot be read by the parser {parser!r}; "
        "they count as no answer"
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


def _find_unread_texts(rows: Sequence[ScoredPrediction]) -> list[str]:
    """The texts of the candidates whose answer cannot be read."""
    return [
        candidate.text
        for row in rows
        for candidate in row.prediction.candidates
        if candidate.answer is None and not row.prediction.too_long
    ]
