"""Training examples of instruction tuning: each in a form that is drawn for it.

The form of an example is a template, perhaps with demonstrations before it (2210.11416, section 2),
or the question and the answer exchanged (input inversion; 2301.13688, section 2.3). It depends on
the seed and the example's id alone, not on the other examples.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.summary import fold_question
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.tasks.templates.wordings import is_jinja
from adapt_jax.training.examples import TokenizedExamples, tokenize_examples
from adapt_jax.training.packing import TrainingExample

__all__ = ["Forms", "Part", "list_wordings", "tokenize_parts"]

# Instruction and question of each wording of a task that has no `templates`, besides its own. A
# task's own instruction stays.
WORDINGS = (
    ("", "Q: {question}\nA:"),
    ("Answer the question.", "Q: {question}\nA:"),
    ("Answer the questions.", "Question: {question}\nAnswer:"),
    ("Do what is asked.", "Instruction: {question}\nResponse:"),
    ("Read with care and answer.", "{question}\nAnswer:"),
    ("", "Problem: {question}\nSolution:"),
)
# The same where the answer is given and the question is asked for.
INVERTED = (
    ("Write a question that has this answer.", "Answer: {question}\nQuestion:"),
    ("What was asked?", "Response: {question}\nInstruction:"),
    ("Here is an output. Write the input.", "Output: {question}\nInput:"),
)

Wording = tuple[Template, str]  # and the instruction


@dataclass(frozen=True)
class Forms:
    """In which forms examples are trained on; see InstructionTuning, whose options they are."""

    few_shot_share: float = 0.0
    max_demonstrations: int = 4
    inversion_share: float = 0.0
    reasoning: bool = True


@dataclass(frozen=True)
class Part:
    """The examples of one task, in whose words they are trained on.

    Attributes:
        pool: the examples that may be shown as demonstrations.
    """

    task: Task
    examples: Sequence[Example]
    pool: Sequence[Example]


@dataclass(frozen=True)
class _Drawn:
    """An example in the form that was drawn for it."""

    example: Example
    wording: Wording
    demonstrations: tuple[Demonstration, ...] = ()


def list_wordings(task: Task) -> list[Wording]:
    """The templates and instructions of a task: its own, then its ``templates`` or general ones."""
    own, wordings = (task.template, task.instruction), list[Wording]()
    if task.templates:
        wordings += [(template, task.instruction) for template in task.templates]
    else:
        for instruction, question in WORDINGS:
            # a chat template already marks question and answer; Jinja knows what is asked
            fixed = task.template.chat or is_jinja(task.template.question)
            template = task.template if fixed else replace(task.template, question=question)
            wordings.append((template, task.instruction or instruction))
    unique = [own]
    unique += [one for at, one in enumerate(wordings) if one not in [own, *wordings[:at]]]
    return unique


def tokenize_parts(
    model: PretrainedDecoder,
    prompt: Prompt,
    parts: Iterable[Part],
    forms: Forms,
    seed: int,
    *,
    max_length: int | None = None,
) -> TokenizedExamples:
    """All examples, each in its form; there is no prompt prefix that all share.

    They are in the order of their ids, so that a training does not depend on the order of files.

    Args:
        prompt: gives what is the same for all parts.
        max_length: tokens of an example; by default the decoder's context length. Demonstrations
            that do not fit are left out whole.
    """
    tokenized: list[TrainingExample] = []
    by_task: dict[str, int] = {}
    too_long = without_answer = 0
    max_length = model.config.context_length if max_length is None else max_length
    for part in parts:
        reasoning = forms.reasoning and any(one.reasoning for one in part.examples)
        shared = replace(prompt, demonstrations=(), reasoning=reasoning)
        by_task[part.task.name] = 0
        for found in _tokenize_part(model, shared, part, forms, seed, max_length):
            by_task[part.task.name] += len(found.examples)
            tokenized += found.examples
            too_long += found.too_long
            without_answer += found.without_answer
    tokenized.sort(key=lambda one: one.id)
    return TokenizedExamples((), tokenized, too_long, without_answer, by_task)


def _tokenize_part(
    model: PretrainedDecoder, prompt: Prompt, part: Part, forms: Forms, seed: int, max_length: int
) -> Iterable[TokenizedExamples]:
    """The examples of a part: those with one wording together, those with demonstrations alone."""
    wordings = list_wordings(part.task)
    pool = sorted((one for one in part.pool if one.answer), key=lambda one: one.id)
    together: list[tuple[Wording, list[Example]]] = []
    for example in part.examples:
        rng = random.Random(f"{seed}/form/{example.id}")
        drawn = _draw_form(rng, example, part.task, wordings, pool, forms)
        if drawn.demonstrations:
            yield _tokenize_few_shot(model, prompt, drawn, max_length)
            continue
        group = next((one for wording, one in together if wording == drawn.wording), None)
        if group is None:
            together.append((drawn.wording, [drawn.example]))
        else:
            group.append(drawn.example)
    for (template, instruction), examples in together:
        worded = replace(prompt, template=template, instruction=instruction)
        yield tokenize_examples(model, worded, examples, max_length=max_length).with_prefix()


def _draw_form(
    rng: random.Random,
    example: Example,
    task: Task,
    wordings: Sequence[Wording],
    pool: Sequence[Example],
    forms: Forms,
) -> _Drawn:
    """The form of one example."""
    kind = rng.random()
    if kind < forms.inversion_share and example.answer and not task.template.row_fields:
        return _invert(rng, example, task)
    wording = rng.choice(wordings)
    if kind < forms.inversion_share + forms.few_shot_share:
        asked = fold_question(example)
        count = rng.randint(1, forms.max_demonstrations)
        offered = rng.sample(pool, min(len(pool), count + 1))
        shown = [one for one in offered if fold_question(one) != asked][:count]
        return _Drawn(example, wording, tuple(map(Demonstration.of, shown)))
    return _Drawn(example, wording)


def _invert(rng: random.Random, example: Example, task: Task) -> _Drawn:
    """The answer as the question, and the question as the answer."""
    instruction, question = rng.choice(INVERTED)
    if task.instruction:
        instruction = f"{instruction} It belongs to this: {task.instruction}"
    template = replace(
        task.template,
        question="{question}" if task.template.chat else question,
        answer="{answer}" if task.template.chat else " {answer}",
    )
    inverted = Example(example.id, example.answer, example.question, category=example.category)
    return _Drawn(inverted, (template, instruction))


def _tokenize_few_shot(
    model: PretrainedDecoder, prompt: Prompt, drawn: _Drawn, max_length: int
) -> TokenizedExamples:
    """One example after as many of its demonstrations as fit."""
    template, instruction = drawn.wording
    worded = replace(prompt, template=template, instruction=instruction)
    for count in range(len(drawn.demonstrations), -1, -1):
        shown = replace(worded, demonstrations=drawn.demonstrations[:count])
        found = tokenize_examples(model, shown, [drawn.example], max_length=max_length)
        if not found.too_long or not count:
            break
    return found.with_prefix()
