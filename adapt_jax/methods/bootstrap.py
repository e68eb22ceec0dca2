"""Reasoning for data that has none: written by the decoder, kept where the answer is right.

The decoder reasons about training questions, and a reasoning that reaches the right answer becomes
that of the example (STaR, 2203.14465, section 3.1; shown as demonstrations: Auto-CoT, 2210.03493).
It is never written for, or taken from, the development and test splits.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field, model_validator

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.scorers import score_answer
from adapt_jax.methods.run_options import RunOptions
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.demonstration_options import DemonstrationOptions
from adapt_jax.prompting.demonstrations import add_demonstrations, list_showable
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import Strict
from adapt_jax.utils.hashing import identity

__all__ = ["Bootstrapped", "BootstrapOptions", "bootstrap_reasoning"]

MIN_WORDS = 3  # of a reasoning; less is only the answer
HINT = "{question}\n(The right answer is {answer}.)"


class BootstrapOptions(Strict):
    """How reasoning is written for training examples that have none.

    Attributes:
        questions: training questions that are tried, at most; drawn by the seed.
        candidates: reasonings that are sampled for each.
        rounds: each later round shows reasonings that were kept in the rounds before it, on the
            questions that are left.
        hint: whether a last round shows the right answer with the question, for those that are
            still left ("rationalization" in STaR). The hint is not part of what is kept.
        demonstrations: reasonings that are shown, where there are some.
        trigger: asks for a reasoning where there is none to show (2205.11916).
    """

    questions: int = Field(200, gt=0, le=1_000_000)
    candidates: int = Field(4, gt=0, le=1000)
    rounds: int = Field(2, gt=0, le=20)
    hint: bool = False
    demonstrations: int = Field(4, gt=0, le=100)
    trigger: str = "Let's think step by step."
    temperature: float = Field(0.7, ge=0, le=100)
    top_k: int = Field(40, ge=0, le=10_000_000)
    max_new_tokens: int = Field(128, gt=0, le=1_000_000)

    @model_validator(mode="after")
    def _check_candidates_differ(self) -> "BootstrapOptions":
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.candidates} candidates at temperature 0 would all be the same; set a "
                "temperature above 0, or 1 candidate"
            )
        return self


@dataclass(frozen=True)
class Bootstrapped:
    """A task whose training examples have reasonings.

    Attributes:
        details: what was asked and kept, and the tokens that it took.
        seconds: wall-clock time of this run.
    """

    task: Task
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def select_reasoned(self) -> Task:
        """The task with those training examples alone that have a reasoning."""
        if not self.details:
            return self.task
        return replace(self.task, train=[one for one in self.task.train if one.reasoning])


def bootstrap_reasoning(
    model: PretrainedDecoder, task: Task, options: BootstrapOptions | None, run: RunOptions
) -> Bootstrapped:
    """The task with the reasonings that the decoder wrote; without options the task as it is.

    Every answer is kept in ``run.folder``, from where an interrupted run continues.

    Raises:
        MethodNotApplicable: there is no training example, or in the end none with a reasoning.
    """
    if options is None:
        return Bootstrapped(task)
    started = time.monotonic()
    work = _Bootstrap(model, task, options, run)
    found = work.run_rounds()
    reasoned = _add_reasonings(task, found)
    if not reasoned.has_reasoning:
        raise MethodNotApplicable(
            f"bootstrap: none of the reasonings that the decoder wrote for {work.counts['asked']} "
            "questions reaches the right answer"
        )
    details = {"bootstrap": {**work.counts, "kept": len(found)}}
    return Bootstrapped(reasoned, details, time.monotonic() - started)


class _Bootstrap:
    """The rounds of one run."""

    def __init__(
        self, model: PretrainedDecoder, task: Task, options: BootstrapOptions, run: RunOptions
    ):
        self.model, self.task, self.options, self.run = model, task, options, run
        self.counts = {"asked": 0, "with_hint": 0, "prompt_tokens": 0, "generated_tokens": 0}

    def run_rounds(self) -> dict[str, str]:
        """The reasonings that were kept, by the id of their example."""
        pool = [one for one in list_showable(self.task, reasoning=False) if not one.reasoning]
        random.Random(f"bootstrap/{self.run.seed}").shuffle(pool)
        left = pool[: self.options.questions]
        self.counts["asked"] = len(left)
        found: dict[str, str] = {}
        for number in range(1, self.options.rounds + 1):
            new = self._ask(f"bootstrap-{number}", self._make_prompt(found), left)
            found |= new
            left = [one for one in left if one.id not in found]
            if not left or not new:
                break  # another round would ask the same again
        if self.options.hint and left:
            hinted = [replace(one, question=_add_hint(one)) for one in left]
            new = self._ask("bootstrap-hint", self._make_prompt(found), hinted)
            self.counts["with_hint"] = len(new)
            found |= new
        return found

    def _make_prompt(self, found: dict[str, str]) -> Prompt:
        """Shows reasonings, where there are some; otherwise asks to think step by step."""
        options, template = self.options, self.task.template
        prompt = Prompt(
            template=template,
            instruction=self.task.instruction,
            parser=self.task.parser,
            vote="majority",
            reasoning=True,
            generation_config=GenerationConfig(
                max_new_tokens=options.max_new_tokens,
                temperature=options.temperature,
                top_k=options.top_k,
                candidates=options.candidates,
                stop=template.stop,
            ),
        )
        reasoned = _add_reasonings(self.task, found)
        if reasoned.has_reasoning:
            shown = DemonstrationOptions(count=options.demonstrations)
            return add_demonstrations(self.model, prompt, reasoned, shown, self.run.seed)
        space = "\n" if template.chat else " "
        asks = replace(template, question=f"{template.question}{space}{options.trigger}")
        return replace(prompt, template=asks)

    def _ask(self, name: str, prompt: Prompt, examples: Sequence[Example]) -> dict[str, str]:
        """Reasonings that reach the right answer, by the id of their example."""
        adaptation = Adaptation("bootstrap", prompt, self.model)
        journal = None
        if self.run.folder is not None:
            work = identity(adaptation.identity, examples, self.run.seed)
            journal = Journal(self.run.folder / f"{name}.jsonl", work)
        evaluation = evaluate(
            adaptation,
            self.task,
            examples,
            seed=self.run.seed,
            max_concurrent_sequences=self.run.max_concurrent_sequences,
            on_progress=self.run.on_step,
            journal=journal,
        )
        found = {}
        for row in evaluation.predictions:
            self.counts["prompt_tokens"] += row.prediction.prompt_tokens
            self.counts["generated_tokens"] += row.prediction.generated_tokens
            reasoning = _choose_reasoning(row.prediction, row.example, self.task)
            if reasoning is not None:
                found[row.example.id] = reasoning
        return found


def _add_reasonings(task: Task, found: dict[str, str]) -> Task:
    """The task whose training examples have these reasonings, by their id."""
    train = [replace(one, reasoning=found.get(one.id, one.reasoning)) for one in task.train]
    return replace(task, train=train)


def _add_hint(example: Example) -> str:
    return HINT.replace("{question}", example.question).replace("{answer}", example.answer)


def _choose_reasoning(prediction: Prediction, example: Example, task: Task) -> str | None:
    """The likeliest reasoning, per token, among those that reach the right answer."""
    right = [
        one
        for one in prediction.candidates
        if one.answer is not None
        and len(one.reasoning.split()) >= MIN_WORDS
        and score_answer(one.answer, example, task).correct
    ]
    best = max(
        right, key=lambda one: one.log_probability / max(len(one.token_ids), 1), default=None
    )
    return None if best is None else best.reasoning
