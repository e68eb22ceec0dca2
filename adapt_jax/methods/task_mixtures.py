"""Mixtures of tasks: how many examples of each are trained on, and which kinds are held out.

A task counts by its size, up to a cap (examples-proportional mixing with a maximum, 2109.01652,
section 2; 1910.10683, section 3.5.2). A temperature evens the sizes out, and a rate multiplies the
share of one task.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.summary import fold_question
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import Strict
from adapt_jax.utils.errors import UserError, nearest

__all__ = [
    "MixtureTask",
    "Share",
    "compute_counts",
    "draw_examples",
    "hold_out",
    "load_tasks",
    "without_questions",
]

MAX_EXAMPLES = 100_000_000


class MixtureTask(Strict):
    """One task of a mixture.

    Attributes:
        task: a task file. Its training split is trained on.
        cap: examples that it counts for at most; by default ``max_examples_per_task``.
        rate: a factor on its share of the mixture.
    """

    task: str
    cap: int | None = Field(None, gt=0, le=MAX_EXAMPLES)
    rate: float = Field(1.0, gt=0, le=1_000_000)


@dataclass(frozen=True)
class Share:
    """What decides on the share of a task: how many examples it counts for, and its rate."""

    size: int
    rate: float = 1.0


def load_tasks(entries: Sequence[MixtureTask]) -> list[Task]:
    """The tasks of a mixture.

    Raises:
        UserError: one cannot be loaded, or two have the same name.
    """
    tasks: dict[str, Task] = {}
    for entry in entries:
        task = load_task(entry.task)
        if task.name in tasks:
            raise UserError(f"{entry.task}: name: a task named {task.name!r} is in the mixture")
        tasks[task.name] = task
    return list(tasks.values())


def compute_counts(shares: Sequence[Share], temperature: float, total: int | None) -> list[int]:
    """How many examples of each task are drawn.

    They are in proportion to rate x size^(1/temperature), and add up to ``total``, by default the
    sum of the sizes: then each task is drawn once as a whole where rates and temperature are 1.
    """
    weights = [share.rate * share.size ** (1 / temperature) for share in shares]
    total = sum(share.size for share in shares) if total is None else total
    if not sum(weights):
        return [0 for _ in shares]
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(count + 1e-9) for count in exact]
    # what rounding left goes to the largest remainders
    order = sorted(range(len(counts)), key=lambda at: counts[at] - exact[at])
    for at in order[: total - sum(counts)]:
        counts[at] += 1
    return counts


def draw_examples(task: Task, examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` examples, whatever the order in which they are given.

    Every example is drawn before one is drawn again; again, it gets another id, so that it comes in
    another wording. Ids begin with the name of the task.
    """
    drawn: list[Example] = []
    ordered = sorted(examples, key=lambda one: one.id)
    number = 0
    while ordered and len(drawn) < count:
        shuffled = list(ordered)
        random.Random(f"{seed}/mixture/{task.name}/{number}").shuffle(shuffled)
        again = f"#{number}" if number else ""
        for example in shuffled[: count - len(drawn)]:
            drawn.append(replace(example, id=f"{task.name}/{example.id}{again}"))
        number += 1
    return drawn


def hold_out(
    tasks: Sequence[Task], kinds: Sequence[str], eval_size: int, seed: int
) -> tuple[list[Task], list[Task]]:
    """The tasks without the kinds that are held out, and these as tasks to be evaluated.

    A kind is the name of a task, or a category of examples. A task is evaluated on its test split,
    a category on its examples there, or else on those that would have been trained on. What is
    evaluated has its kind as its category.

    Args:
        eval_size: examples of each kind that are evaluated.

    Raises:
        UserError: an unknown kind, or nothing is left to train on.
    """
    names = [task.name for task in tasks]
    categories = {one.category for task in tasks for one in (*task.train, *task.test)} - {""}
    known = list(dict.fromkeys([*names, *sorted(categories)]))
    for kind in kinds:
        if kind not in known:
            shown = ", ".join(known[:30]) + (", ..." if len(known) > 30 else "")
            raise UserError(
                f"instruction_tuning.held_out: no task or category {kind!r}; there are: "
                f"{shown}{nearest(kind, known)}"
            )
    trained, evaluated = [], []
    for task in tasks:
        if task.name in kinds:
            whole = [replace(one, category=task.name) for one in task.test]
            evaluated.append(_only_evaluated(task, _choose(whole, task.name, eval_size, seed)))
            continue
        chosen: list[Example] = []
        for kind in kinds:
            test = [one for one in task.test if one.category == kind]
            test = test or [one for one in task.train if one.category == kind]
            chosen += _choose(test, kind, eval_size, seed)
        if chosen:
            evaluated.append(_only_evaluated(task, chosen))
        if kept := [one for one in task.train if one.category not in kinds]:
            trained.append(replace(task, train=kept))
    if not trained:
        raise UserError("instruction_tuning.held_out: nothing is left to train on")
    return trained, evaluated


def _choose(examples: Sequence[Example], kind: str, size: int, seed: int) -> list[Example]:
    """Up to ``size`` examples, whatever the order in which they are given."""
    ordered = sorted(examples, key=lambda one: one.id)
    random.Random(f"{seed}/held out/{kind}").shuffle(ordered)
    return ordered[:size]


def _only_evaluated(task: Task, examples: Sequence[Example]) -> Task:
    return replace(task, train=(), development=(), test=examples)


def without_questions(examples: Sequence[Example], evaluated: set[str]) -> list[Example]:
    """The examples whose folded questions (``fold_question``) are none of the evaluated ones."""
    return [one for one in examples if fold_question(one) not in evaluated]
