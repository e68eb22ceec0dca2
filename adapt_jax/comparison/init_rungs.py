"""Which rungs can run on a task and a decoder, with which options, and how long each takes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapt_jax.inspection.checkpoint import count_parameters
from adapt_jax.inspection.speed import Speed, Work, estimate_seconds
from adapt_jax.methods.base import Method, TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, check_prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError

__all__ = ["Lengths", "PlannedRung", "measure_lengths", "plan_rungs"]

NUM_MEASURED = 300  # examples whose tokens are counted
MAX_SCORED_CHOICES = 10  # more are generated: each choice is a text to score
SMALL_DECODER = 20_000_000  # parameters; smaller ones take the learning rates of the embedded one
# of a small and of another decoder, by the option that tells what is trained
LEARNING_RATES = {"rank": (1e-3, 2e-4), "length": (2e-2, 1e-2), "trainable": (3e-4, 1e-5)}
STEPS, BATCH = 100, 8
SPARE_TOKENS = 16  # that an answer may be longer than those of the data


@dataclass(frozen=True)
class Lengths:
    """Tokens of the task's examples.

    Attributes:
        question, answer: the median and the longest of nearly all (95 %).
        longest: question and answer of the longest measured example.
        reasoning: of nearly all answers with their reasoning; 0 where there is none.
        too_long: share of examples that do not fit the decoder's context.
    """

    question: tuple[int, int]
    answer: tuple[int, int]
    longest: int
    reasoning: int
    too_long: float


@dataclass(frozen=True)
class PlannedRung:
    """A rung with its options; ``why_not`` says why it cannot run, empty where it can."""

    name: str
    options: dict[str, Any]
    seconds: float = 0.0
    why_not: str = ""


def measure_lengths(model: PretrainedDecoder, task: Task) -> Lengths:
    """Counts the tokens of some examples."""
    examples = [*task.train, *task.development, *task.test][:NUM_MEASURED]
    template = task.template

    def count(texts: Sequence[str]) -> list[int]:
        return [len(model.encode(text, bos=False)) for text in texts]

    questions = count([template.format_question(e.question, e.choices) for e in examples])
    answers = count([template.format_answer(e.answer) for e in examples])
    steps = count([template.format_answer(e.answer, e.reasoning) for e in examples if e.reasoning])
    instruction = len(model.encode(task.instruction))
    whole = [instruction + q + a for q, a in zip(questions, answers, strict=True)]
    return Lengths(
        question=(int(statistics.median(questions)), int(np.quantile(questions, 0.95))),
        answer=(int(statistics.median(answers)), int(np.quantile(answers, 0.95))),
        longest=max(whole),
        reasoning=int(np.quantile(steps, 0.95)) if steps else 0,
        too_long=sum(one > model.config.context_length for one in whole) / len(whole),
    )


def plan_rungs(
    model: PretrainedDecoder, task: Task, lengths: Lengths, speed: Speed
) -> list[PlannedRung]:
    """The rungs of the ladder, each tried as far as that needs no weights.

    Args:
        model: may be without weights, see ``load_without_weights``.
    """
    parameters = sum(count_parameters(model.config).values())
    planned = []
    for name in METHODS:
        if "mixture" in METHODS[name].model_fields:
            planned.append(PlannedRung(name, {}, why_not="needs a mixture of tasks of your own"))
            continue
        options = _choose_options(METHODS[name], task, lengths, parameters)
        try:
            method: Method = validate(METHODS[name], options, f"methods.{name}")
            prompt = method.build_prompt(model, task, 0)  # type: ignore[attr-defined]
            check_prompt(model, prompt, task)
            _check_context(model, prompt, task.test)
        except (MethodNotApplicable, UserError) as reason:
            planned.append(PlannedRung(name, options, why_not=" ".join(str(reason).split())))
            continue
        work = _estimate_work(method, model, prompt, task, lengths)
        seconds = estimate_seconds(work, parameters, model.config, speed)
        planned.append(PlannedRung(name, options, seconds))
    return planned


def _choose_options(
    kind: type[Method], task: Task, lengths: Lengths, parameters: int
) -> dict[str, Any]:
    """Options that suit the data, for those that a method has; others keep their defaults."""
    names = kind.model_fields.keys()
    reasons_on = getattr(kind.model_construct(), "reasons_on", None)  # with its defaults
    shows_reasoning = reasons_on(task) if reasons_on else "training" in names and task.has_reasoning
    short = lengths.answer[1] + SPARE_TOKENS
    long = (lengths.reasoning or lengths.answer[1]) + 4 * SPARE_TOKENS
    options: dict[str, Any] = {}
    if "demonstrations" in names:
        options["demonstrations"] = 4 if shows_reasoning else 8
    samples = "candidates" in names
    if "answer_by" in names and not (shows_reasoning or samples) and _has_few_choices(task):
        return options | {"answer_by": "likelihood"}
    if samples:
        options |= {"candidates": 10, "stop_at": 0.95}
    # an instruction alone does not show how short an answer may be
    is_open = "demonstrations" not in names and "training" not in names
    options["max_new_tokens"] = max(long, 64) if is_open else long if shows_reasoning else short
    if "training" in names:
        rates = [rate for field, rate in LEARNING_RATES.items() if field in names]
        rate = rates[0][parameters >= SMALL_DECODER] if rates else 1e-4
        options["training"] = {"steps": STEPS, "batch_size": BATCH, "learning_rate": rate}
    return options


def _has_few_choices(task: Task) -> bool:
    counts = {len(example.choices) for example in (*task.train, *task.development, *task.test)}
    return bool(counts) and min(counts) >= 2 and max(counts) <= MAX_SCORED_CHOICES


def _check_context(model: PretrainedDecoder, prompt: Prompt, examples: Sequence[Example]) -> None:
    """Raises MethodNotApplicable where most questions do not fit the context after the prefix."""
    some = examples[:50]
    limit = model.config.context_length
    rendered = [
        prompt.template.format_question(example.question, example.choices) for example in some
    ]
    counts = [len(prompt.encode(model, prompt.render_prompt(model, one))) for one in rendered]
    too_long = sum(count >= limit for count in counts)
    if too_long > len(counts) / 2:
        raise MethodNotApplicable(
            f"{too_long} of {len(counts)} questions do not fit the context of {limit:,} tokens"
        )


def _estimate_work(
    method: Method, model: PretrainedDecoder, prompt: Prompt, task: Task, lengths: Lengths
) -> Work:
    """The tokens of a rung, if every answer is as long as nearly all (95 %) are."""
    is_scored = prompt.multiple_choice is not None
    options = len(task.test[0].choices) if is_scored else 0
    expected = lengths.reasoning if prompt.reasoning else lengths.answer[1]
    config = prompt.generation_config
    new_tokens = 0 if is_scored else min(config.max_new_tokens, expected + SPARE_TOKENS)
    if not (prompt.demonstrations or isinstance(method, TuningMethod) or is_scored):
        new_tokens = config.max_new_tokens  # nothing shows where an answer ends
    trained, backward = 0.0, 6.0
    if isinstance(method, TuningMethod):
        target = lengths.reasoning if prompt.reasoning else lengths.answer[0]
        steps = method.training.steps * method.training.batch_size
        trained = steps * (lengths.question[0] + target)
        trains_all = "trainable" in type(method).model_fields
        backward = 6.0 if trains_all else 4.0
    return Work(
        prefix=len(prompt.encode_prefix(model)),
        questions=len(task.test),
        question_tokens=lengths.question[0] + options * lengths.answer[0],
        new_tokens=new_tokens,
        candidates=config.candidates,
        trained_tokens=trained,
        backward=backward,
    )
