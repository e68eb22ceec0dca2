"""Which solved questions are shown: of the training split, and as many as fit whole."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.demonstration_options import NEAREST, DemonstrationOptions
from adapt_jax.prompting.demonstration_selectors import SELECTORS, SelectionContext
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.prompting.retrieval import Retrieval
from adapt_jax.prompting.similarity import SIMILARITIES, Similarity
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.summary import fold_question
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["add_demonstrations", "list_showable", "select_demonstrations"]

NUM_MEASURED = 400  # training examples whose lengths say how much room a question needs
ROOM_QUANTILE = 0.9  # of the measured examples fit
SPARE_TOKENS = 8  # that an answer may be longer than the example's own

Fits = Callable[[tuple[Demonstration, ...]], bool]


def add_demonstrations(
    model: PretrainedDecoder,
    prompt: Prompt,
    task: Task,
    options: DemonstrationOptions,
    seed: int,
) -> Prompt:
    """The prompt with demonstrations, or with the pool from which each question gets its own.

    Raises:
        MethodNotApplicable: there is nothing to show, or not one demonstration fits.
        UserError: a demonstration that the options name is not there, or is evaluated.
    """
    if options.select == NEAREST:
        return replace(prompt, retrieval=_make_retrieval(model, prompt, task, options, seed))
    demonstrations = select_demonstrations(
        task,
        options,
        seed=seed,
        reasoning=prompt.reasoning,
        fits=_make_fits(model, prompt, task, options.max_tokens),
        model=model,
    )
    return replace(prompt, demonstrations=demonstrations)


def select_demonstrations(
    task: Task,
    options: DemonstrationOptions,
    *,
    seed: int,
    reasoning: bool,
    fits: Fits,
    model: PretrainedDecoder | None = None,
) -> tuple[Demonstration, ...]:
    """Demonstrations of ``task.train``, the same for every question, in the order shown.

    Args:
        reasoning: show reasonings, so only examples that have one.
        fits: whether these demonstrations leave room for the question and its answer.
        model: whose hidden states are compared, with ``similarity: decoder``.

    Raises:
        MethodNotApplicable: no training example can be shown, or not even one fits.
        UserError: a demonstration that the options name is not there, or is evaluated.
    """
    fixed = _list_fixed(task, options, reasoning)
    pool = fixed or list_showable(task, reasoning)
    rng = random.Random(f"demonstrations/{seed}")
    rng.shuffle(pool := list(pool))
    context = SelectionContext(
        pool=pool,
        fixed=fixed,
        count=options.count if not fixed else len(fixed),
        rng=rng,
        fits=lambda examples: fits(tuple(map(Demonstration.of, examples))),
        index=partial(_index_examples, model, options.similarity),
        diversity=options.diversity,
        pool_size=options.pool,
    )
    chosen = SELECTORS[options.select](context)
    if not chosen:
        raise MethodNotApplicable(
            "not even one demonstration fits the decoder's context with the question"
            + (f", or max_tokens: {options.max_tokens}" if options.max_tokens else "")
        )
    return tuple(map(Demonstration.of, chosen))


def _index_examples(
    model: PretrainedDecoder | None, similarity: str, examples: Sequence[Example]
) -> Similarity:
    return SIMILARITIES[similarity](model, [one.question for one in examples])  # type: ignore[arg-type]


def list_showable(task: Task, reasoning: bool) -> list[Example]:
    """Training examples that have what is shown, and whose question is not in another split.

    Raises:
        MethodNotApplicable: there is none.
    """
    held_out = set(map(fold_question, (*task.test, *task.development)))
    pool = [one for one in task.train if one.answer and fold_question(one) not in held_out]
    if not pool:
        raise MethodNotApplicable("the task has no training examples to show as demonstrations")
    if reasoning:
        pool = [example for example in pool if example.reasoning]
        if not pool:
            raise MethodNotApplicable("no training example has a reasoning to show")
    return pool


def _list_fixed(task: Task, options: DemonstrationOptions, reasoning: bool) -> list[Example]:
    """The examples that the options name: by id, then those that they write themselves.

    Raises:
        UserError: an id is not in the training split, a reasoning is missing, or a question is
            evaluated.
    """
    if options.select != "fixed":
        return []
    by_id = {example.id: example for example in task.train}
    held_out_ids = {one.id for one in (*task.test, *task.development)}
    held_out = set(map(fold_question, (*task.test, *task.development)))
    found = []
    for id in options.ids:
        if id in held_out_ids:
            raise UserError(
                f"demonstrations.ids: {id!r:.80} is in the test or development split; expected "
                "training examples"
            )
        if id not in by_id:
            hint = nearest(id, by_id)
            raise UserError(f"demonstrations.ids: no training example has the id {id!r:.80}{hint}")
        found.append(by_id[id])
    for number, one in enumerate(options.examples, start=1):
        choices = tuple(one.choices) or (task.train[0].choices if _has_one_set(task) else ())
        example = Example(f"inline-{number}", one.question, one.answer, one.reasoning, choices)
        found.append(example)
    for example in found:
        if fold_question(example) in held_out:
            raise UserError(
                f"demonstrations: the question of {example.id!r:.80} is in the test or "
                "development split"
            )
        if reasoning and not example.reasoning:
            raise UserError(f"demonstrations: {example.id!r:.80} has no reasoning to show")
    return found


def _has_one_set(task: Task) -> bool:
    """Whether all training examples choose among the same answers."""
    return len({example.choices for example in task.train}) == 1


def _make_retrieval(
    model: PretrainedDecoder, prompt: Prompt, task: Task, options: DemonstrationOptions, seed: int
) -> Retrieval:
    """The pool, drawn by the seed where it is larger than the options allow."""
    pool = list_showable(task, prompt.reasoning)
    random.Random(f"demonstrations/{seed}").shuffle(pool)
    return Retrieval(
        pool=tuple(map(Demonstration.of, pool[: options.pool])),
        count=options.count,
        similarity=options.similarity,
        diversity=options.diversity or 0.0,
        max_tokens=options.max_tokens,
        answer_tokens=_measure_quantile(_measure_answers(model, prompt, task)),
    )


def _make_fits(
    model: PretrainedDecoder, prompt: Prompt, task: Task, max_tokens: int | None
) -> Fits:
    """Whether demonstrations leave room for question and answer as nine in ten examples need it."""
    questions = [
        _count_tokens(model, prompt, prompt.template.format_example(one))
        for one in task.train[:NUM_MEASURED]
    ]
    answers = _measure_answers(model, prompt, task)
    needs = [sum(pair) for pair in zip(questions, answers, strict=True)]
    room = model.config.context_length - _measure_quantile(needs) if needs else 0
    room = room if max_tokens is None else min(room, max_tokens)
    bare = _count_tokens(model, prompt, "")

    def fits(shown: tuple[Demonstration, ...]) -> bool:
        return _count_tokens(model, replace(prompt, demonstrations=shown), "") - bare <= room

    return fits


def _count_tokens(model: PretrainedDecoder, prompt: Prompt, question: str) -> int:
    return len(prompt.encode(model, prompt.render_prompt(model, question)))


def _measure_answers(model: PretrainedDecoder, prompt: Prompt, task: Task) -> list[int]:
    """Tokens that the answers of training examples need, with some to spare."""
    found = []
    for example in task.train[:NUM_MEASURED]:
        reasoning = example.reasoning if prompt.reasoning else ""
        answer = prompt.template.format_answer(example.answer, reasoning)
        length = len(model.encode(answer, bos=False)) + SPARE_TOKENS
        found.append(min(length, prompt.generation_config.max_new_tokens))
    return found


def _measure_quantile(lengths: Sequence[int]) -> int:
    return int(np.quantile(lengths, ROOM_QUANTILE)) if lengths else 0
