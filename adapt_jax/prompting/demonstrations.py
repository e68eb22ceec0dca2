"""Which solved questions stand in front: from the training split, varied, and as many as fit."""

import random
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration

LOOKED_AT = 16  # examples that compete for each place


def word_set(example: Example) -> set[str]:
    """The words of a reasoning (of the question, where there is none), without its numbers."""
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
    """Up to ``count`` demonstrations of ``task.train``, in the order in which they stand.

    They spread over the kinds of example, and the wording of each is as unlike the others' as
    a seeded draw of 16 offers: candidates sampled behind one wording all reason alike (Auto-CoT,
    2210.03493, section 4). One that does not fit is left out whole.

    Raises:
        CannotRun: no training example can be shown, or not even one fits.
    """
    held_out = {example.question for example in (*task.test, *task.development)}
    pool = [e for e in task.train if e.answer and e.question not in held_out]
    if not pool:
        raise MethodNotApplicable("the task has no training examples to show as demonstrations")
    if reasoning:
        pool = [example for example in pool if example.reasoning]
        if not pool:
            raise MethodNotApplicable("no training example holds a reasoning to show")
    rng = random.Random(f"demonstrations/{seed}")
    rng.shuffle(pool)
    kinds: dict[str, list[Example]] = {}
    for example in pool:
        kinds.setdefault(example.category, []).append(example)
    order = sorted(kinds)
    chosen: list[Example] = []
    while len(chosen) < count and any(kinds.values()):
        kind = order[len(chosen) % len(order)]
        offered = kinds[kind][:LOOKED_AT] or kinds[max(order, key=lambda k: len(kinds[k]))]
        offered = sorted(
            offered[:LOOKED_AT],
            key=lambda e: max((jaccard(word_set(e), word_set(c)) for c in chosen), default=0.0),
        )
        shown = [Demonstration.of(example) for example in chosen]
        fitting = (e for e in offered if fits((*shown, Demonstration.of(e))))
        found = next(fitting, None)
        if found is None:
            break
        chosen.append(found)
        kinds[found.category].remove(found)
    if not chosen:
        raise MethodNotApplicable(
            "not even one demonstration fits the decoder's context with the question"
        )
    return tuple(Demonstration.of(example) for example in chosen)


def within_context(
    model: PretrainedDecoder, prompt: Prompt, task: Task
) -> Callable[[tuple[Demonstration, ...]], bool]:
    """Whether demonstrations leave room for question and answer as nine in ten examples need it."""
    template, needs = prompt.template, []

    def length(prompt: Prompt, asked: str) -> int:
        return len(prompt.encode(model, prompt.render_prompt(model, asked)))

    for example in task.train[:400]:
        text = template.format_question(example.question, example.choices)
        reasoning = example.reasoning if prompt.reasoning else ""
        target = len(model.encode(template.format_answer(example.answer, reasoning), bos=False))
        needs.append(
            length(prompt, text) + min(target + 8, prompt.generation_config.max_new_tokens)
        )
    room = model.config.context_length - int(np.quantile(needs, 0.9)) if needs else 0
    bare = length(prompt, "")

    def fits(shown: tuple[Demonstration, ...]) -> bool:
        return length(replace(prompt, demonstrations=shown), "") - bare <= room

    return fits
