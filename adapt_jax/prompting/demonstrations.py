"""Which solved questions are shown: from the training split, varied, and as many as fit."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration

__all__ = ["jaccard", "select_demonstrations", "within_context", "word_set"]

NUM_COMPARED = 16  # examples that compete for each place
NUM_MEASURED = 400  # training examples whose lengths say how much room a question needs
ROOM_QUANTILE = 0.9  # of the measured examples fit
SPARE_TOKENS = 8  # that an answer may be longer than the example's own


def word_set(example: Example) -> set[str]:
    """The words of the reasoning, or else of the question, in lower case and without numbers."""
    return set(re.findall(r"[^\W\d]+|[^\w\s]", (example.reasoning or example.question).lower()))


def jaccard(one: set[str], other: set[str]) -> float:
    """Shared words over all words, 0 to 1."""
    return len(one & other) / len(one | other) if one | other else 1.0


def select_demonstrations(
    task: Task,
    count: int,
    *,
    seed: int,
    reasoning: bool,
    fits: Callable[[tuple[Demonstration, ...]], bool],
) -> tuple[Demonstration, ...]:
    """Up to ``count`` demonstrations of ``task.train``, in the order in which they are shown.

    They are spread over the categories of the examples, or over the labels where all examples
    choose among the same. Of 16 seeded examples the one is taken whose words are the least like
    those that are shown already: similar demonstrations lead to similar mistakes (Auto-CoT,
    2210.03493, section 4). One that does not fit is left out whole.

    Args:
        reasoning: show reasonings, so only examples that have one.
        fits: whether these demonstrations leave room for the question and its answer.

    Raises:
        MethodNotApplicable: no training example can be shown, or not even one fits.
    """
    pool = _list_showable(task, reasoning)
    rng = random.Random(f"demonstrations/{seed}")
    rng.shuffle(pool)
    groups = _group_examples(pool, rng)
    order = list(groups)
    chosen: list[Example] = []
    while len(chosen) < count and any(groups.values()):
        # 1. the next group; an empty one gives its place to the largest
        group = groups[order[len(chosen) % len(order)]] or max(groups.values(), key=len)
        # 2. its examples, the least similar first
        words = [word_set(one) for one in chosen]
        offered = sorted(group[:NUM_COMPARED], key=partial(_similarity, words))
        # 3. the first that fits
        shown = tuple(map(Demonstration.of, chosen))
        fitting = (one for one in offered if fits((*shown, Demonstration.of(one))))
        found = next(fitting, None)
        if found is None:
            break
        chosen.append(found)
        group.remove(found)
    if not chosen:
        raise MethodNotApplicable(
            "not even one demonstration fits the decoder's context with the question"
        )
    return tuple(map(Demonstration.of, chosen))


def _list_showable(task: Task, reasoning: bool) -> list[Example]:
    """Training examples that have what is shown, and whose question is not in another split."""
    held_out = {example.question for example in (*task.test, *task.development)}
    pool = [one for one in task.train if one.answer and one.question not in held_out]
    if not pool:
        raise MethodNotApplicable("the task has no training examples to show as demonstrations")
    if reasoning:
        pool = [example for example in pool if example.reasoning]
        if not pool:
            raise MethodNotApplicable("no training example has a reasoning to show")
    return pool


def _group_examples(pool: Sequence[Example], rng: random.Random) -> dict[str, list[Example]]:
    """The examples by category in alphabetical order, or by label in a seeded order."""
    by_label = len({one.choices for one in pool}) == 1 and bool(pool[0].choices)
    by_label = by_label and len({one.category for one in pool}) == 1
    groups: dict[str, list[Example]] = {}
    for example in pool:
        groups.setdefault(example.answer if by_label else example.category, []).append(example)
    order = sorted(groups)
    if by_label:
        rng.shuffle(order)
    return {name: groups[name] for name in order}


def _similarity(shown: Sequence[set[str]], example: Example) -> float:
    """The highest similarity to the words of an example that is shown already, 0 to 1."""
    words = word_set(example)
    return max((jaccard(words, other) for other in shown), default=0.0)


def within_context(
    model: PretrainedDecoder, prompt: Prompt, task: Task
) -> Callable[[tuple[Demonstration, ...]], bool]:
    """Whether demonstrations leave room for question and answer as nine in ten examples need it."""
    template, needs = prompt.template, []

    def count_tokens(prompt: Prompt, question: str) -> int:
        return len(prompt.encode(model, prompt.render_prompt(model, question)))

    for example in task.train[:NUM_MEASURED]:
        question = template.format_example(example)
        reasoning = example.reasoning if prompt.reasoning else ""
        answer = model.encode(template.format_answer(example.answer, reasoning), bos=False)
        limit = prompt.generation_config.max_new_tokens
        needs.append(count_tokens(prompt, question) + min(len(answer) + SPARE_TOKENS, limit))
    room = model.config.context_length - int(np.quantile(needs, ROOM_QUANTILE)) if needs else 0
    bare = count_tokens(prompt, "")

    def fits(shown: tuple[Demonstration, ...]) -> bool:
        return count_tokens(replace(prompt, demonstrations=shown), "") - bare <= room

    return fits
