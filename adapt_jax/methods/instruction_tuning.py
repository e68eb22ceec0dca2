"""Instruction tuning: every parameter, on many kinds of instruction in several wordings each.

Judged zero-shot on the task and on kinds that the mixture left out (2109.01652, section 2).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Unpack

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources import Row, find, read_json, read_jsonl
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import (
    TokenizedExamples,
    TuningMethod,
    TuningResult,
    cast_params,
    clone_decoder,
    summarize,
    tokenize_examples,
)
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.trainer import RunOptions, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import Validation
from adapt_jax.utils.errors import UserError, nearest

INSTRUCTION = "Answer the question."  # in front of unseen kinds, when they are judged

# Instruction and question of each wording; the task's own template is one more.
WORDINGS = (
    ("", "Q: {question}\nA:"),
    ("Answer the question.", "Q: {question}\nA:"),
    ("Answer the questions.", "Question: {question}\nAnswer:"),
    ("Do what is asked.", "Instruction: {question}\nResponse:"),
    ("Read with care and answer.", "{question}\nAnswer:"),
    ("", "Problem: {question}\nSolution:"),
)


class InstructionTuning(TuningMethod):
    """Trains every parameter on a mixture of kinds, the task's own training examples one of them.

    ``mixture`` is a name in ``MIXTURES``, or a local .jsonl or .json file in Alpaca's form
    (instruction, input, output, and perhaps kind). ``held_out`` are the kinds left out of training
    and judged instead; not given, the mixture's own choice. ``size`` counts training examples of a
    kind, ``judged`` those of each held-out kind that are judged.
    """

    name: ClassVar[str] = "instruction_tuning"

    training: TrainingConfig = TrainingConfig(learning_rate=1e-3)
    mixture: str = "arithmetic"
    held_out: list[str] | None = None
    size: int = Field(200, gt=0)
    judged: int = Field(40, gt=0)

    def adapt(
        self,
        model: PretrainedDecoder,
        task: Task,
        *,
        seed: int,
        **run: Unpack[RunOptions],
    ) -> TuningResult:
        """Trains a copy of the decoder; ``TuningResult.unseen`` holds the kinds to judge it on.

        Raises:
            CannotRun: the task has no training examples, or none of all fits the context.
            UserError: an unknown mixture or kind, or every kind held out.
        """
        prompt = self.prompt(task)
        seen, unseen = mixed(self, seed)
        judged = {example.question for example in [*task.development, *task.test, *unseen]}
        seen = [example for example in seen if example.question not in judged]
        prepared = reworded(model, prompt, [*task.train, *seen], seed).checked()
        decoder = clone_decoder(model.decoder, run.get("mesh"))
        kept = cast_params(decoder, nnx.Param, jnp.float32)  # bfloat16 would swallow small updates
        result = train(
            TunedDecoder(decoder),
            nnx.Param,
            prepared.examples,
            self.training,
            seed=seed,
            validation=self.validation(model, prompt, task),
            **run,
        )
        cast_params(decoder, nnx.Param, kept)
        kinds = sorted({example.category for example in unseen})
        return TuningResult(
            prompt,
            PretrainedDecoder(decoder, model.tokenizer, model.path),
            result.trainable_parameters,
            result.seconds,
            result.losses,
            unseen=_unseen(task, unseen) if unseen else None,
            details=summarize(prepared, result, mixture=self.mixture, held_out=kinds),
        )

    def validation(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, *, room: int | None = None
    ) -> Validation | None:
        """The development split, whole: there is no front that all share."""
        shared = super().validation(model, prompt, task, room=room)
        if shared is None:
            return None
        return replace(
            shared, examples=tokenize_examples(model, prompt, task.development).with_prefix()
        )


def mixed(method: InstructionTuning, seed: int) -> tuple[list[Example], list[Example]]:
    """The mixture's examples to train on, and those of held-out kinds to judge.

    Raises:
        UserError: an unknown mixture or kind, or every kind held out.
    """
    if method.mixture in MIXTURES:
        return MIXTURES[method.mixture](method, seed)
    if not method.mixture.endswith((".jsonl", ".json")):
        raise UserError(
            f"instruction_tuning.mixture: {method.mixture!r} is neither a .jsonl or .json file nor "
            f"one of {', '.join(MIXTURES)}{nearest(method.mixture, MIXTURES)}"
        )
    return _from_file(method, seed)


def reworded(
    model: PretrainedDecoder, prompt: Prompt, examples: Sequence[Example], seed: int
) -> TokenizedExamples:
    """Each example in a wording drawn for it, whole: there is no front that all share."""
    rng = random.Random(f"{seed}/wordings")
    own = (prompt.instruction, prompt.template.question)
    others: Sequence[tuple[str, str]] = WORDINGS
    if prompt.template.chat:  # the turns mark question and answer, words need not
        others = [(instruction, own[1]) for instruction, _ in WORDINGS]
    wordings = list(dict.fromkeys([own, *others]))
    drawn: dict[tuple[str, str], list[Example]] = {wording: [] for wording in wordings}
    for example in examples:
        drawn[rng.choice(wordings)].append(example)
    prepared = []
    for (instruction, question), chosen in drawn.items():
        template = replace(prompt.template, question=question)
        worded = replace(prompt, template=template, instruction=instruction)
        prepared.append(tokenize_examples(model, worded, chosen))
    whole: list[TrainingExample] = [example for one in prepared for example in one.with_prefix()]
    too_long = sum(one.too_long for one in prepared)
    return TokenizedExamples((), whole, too_long, len(examples) - len(whole) - too_long)


def _unseen(task: Task, examples: list[Example]) -> Task:
    """The held-out kinds as a task of their own, asked in the task's own template."""
    return Task(
        name="unseen kinds",
        train=(),
        development=(),
        test=examples,
        instruction=INSTRUCTION,
        template=task.template,
        parser="text",
    )


def _split_kinds(kinds: Sequence[str], held_out: Sequence[str]) -> tuple[list[str], list[str]]:
    """The kinds to train on and the kinds held out."""
    for kind in held_out:
        if kind not in kinds:
            raise UserError(
                f"instruction_tuning.held_out: no kind {kind!r}; there are: {', '.join(kinds)}"
                f"{nearest(kind, kinds)}"
            )
    seen = [kind for kind in kinds if kind not in held_out]
    if not seen:
        raise UserError("instruction_tuning.held_out: every kind is held out")
    return seen, list(held_out)


def _arithmetic(method: InstructionTuning, seed: int) -> tuple[list[Example], list[Example]]:
    from adapt_jax.tasks.arithmetic import KINDS, instructions

    default = ["owner", "reverse", "smaller", "sequence", "digits"]
    held_out = default if method.held_out is None else method.held_out
    seen, unseen = _split_kinds(list(KINDS), held_out)
    return (
        instructions(seed, seen, method.size),
        instructions(seed, unseen, method.judged, split="test"),
    )


def _from_file(method: InstructionTuning, seed: int) -> tuple[list[Example], list[Example]]:
    path = find(method.mixture, Path())
    rows = (read_jsonl if path.suffix == ".jsonl" else read_json)(path)
    kinds: dict[str, list[Example]] = {}
    for row in rows:
        example = _alpaca(row)
        kinds.setdefault(example.category, []).append(example)
    seen, unseen = _split_kinds(list(kinds), method.held_out or [])
    rng = random.Random(seed)
    for examples in kinds.values():
        rng.shuffle(examples)
    return (
        [example for kind in seen for example in kinds[kind][: method.size]],
        [example for kind in unseen for example in kinds[kind][: method.judged]],
    )


def _alpaca(row: Row) -> Example:
    """{"instruction", "input" (may be absent or empty), "output"}, and perhaps "kind"."""
    values = {key: row.values.get(key, "") for key in ("instruction", "input", "output", "kind")}
    for key, value in values.items():
        if not isinstance(value, str) or (key in ("instruction", "output") and not value):
            has = ", ".join(row.values)
            raise UserError(f"{row.where}: expected a text in field {key!r}; it has: {has}")
    question = "\n".join(part for part in (values["instruction"], values["input"]) if part)
    return Example(str(row.number), question, values["output"], category=values["kind"] or "file")


Mixture = Callable[[InstructionTuning, int], tuple[list[Example], list[Example]]]
MIXTURES: dict[str, Mixture] = {"arithmetic": _arithmetic}
