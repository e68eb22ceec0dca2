"""What is too long: right answers for the new tokens of a rung, training examples for the context.

A longer answer is cut off whatever the decoder knows, and its question cannot be answered right.
"""

from collections.abc import Mapping
from typing import Any

from adapt_jax.evaluation.warnings import MIN_SHARE
from adapt_jax.methods.base import Method
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.tasks.task import Task
from adapt_jax.utils.progress import Display

__all__ = ["describe_dropped", "describe_short_limit", "report_short_limits"]


def report_short_limits(
    methods: Mapping[str, Method], model: PretrainedDecoder, task: Task, display: Display
) -> None:
    """Prints a line for each rung whose limit is too short, before anything is spent on it."""
    for name, method in methods.items():
        if (line := describe_short_limit(method, model, task)) is not None:
            display.line(f"{name}: {line}")


def describe_short_limit(method: Method, model: PretrainedDecoder, task: Task) -> str | None:
    """A sentence where right answers of the test split are longer than the limit of new tokens.

    Only the answer in the words of the template is counted, without any reasoning. None where at
    most 5 % of them are longer, or where nothing is generated.
    """
    if (limit := method.answer_limit()) is None:
        return None
    answers = [example.answer for example in task.test if example.answer]
    lengths = {
        answer: len(model.encode(task.template.format_answer(answer), bos=False))
        for answer in set(answers)
    }
    longer = [lengths[answer] for answer in answers if lengths[answer] > limit]
    if len(longer) <= MIN_SHARE * len(answers):
        return None
    return (
        f"max_new_tokens: {limit} is too short for the right answer to {len(longer)} of "
        f"{len(answers)} test questions: in the words of the template it has up to {max(longer)}"
    )


def describe_dropped(details: Mapping[str, Any], model: PretrainedDecoder) -> str | None:
    """A sentence where a training left out examples that do not fit the context.

    None where they are at most 5 % and no task of a mixture is left out with them.

    Args:
        details: ``MethodResult.details``; a method that trains nothing names no examples.
    """
    dropped, kept = details.get("dropped_too_long", 0), details.get("examples", 0)
    gone = [name for name, count in details.get("examples_by_task", {}).items() if not count]
    if not dropped or (dropped <= MIN_SHARE * (dropped + kept) and not gone):
        return None
    nothing = f", and nothing is left of {', '.join(gone)}" if gone else ""
    return (
        f"{dropped} of {dropped + kept} training examples do not fit the context of "
        f"{model.config.context_length} tokens and were left out{nothing}"
    )
