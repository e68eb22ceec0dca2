"""Instruction tuning: training on many kinds of instruction, each in several forms.

It turns a decoder that only continues text into one that follows instructions, also of kinds that
it was not trained on: some kinds are held out of the training and evaluated before and after. It is
enough where one decoder is to serve many tasks; for a single task fine-tuning on that task is
simpler. Papers: FLAN, 2109.01652, section 2, and 2210.11416. Mixtures of tasks are in
``task_mixtures.py``, named ones in ``mixtures.py``, the forms in ``instruction_examples.py``.
"""

from dataclasses import replace
from typing import Any, ClassVar

from flax import nnx
from pydantic import Field, PrivateAttr, model_validator

from adapt_jax.evaluation.scorers import find_scorer
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.instruction_examples import Forms, Part, tokenize_parts
from adapt_jax.methods.mixtures import DEFAULT_HELD_OUT, MixtureOptions, load_mixture
from adapt_jax.methods.registry import METHODS
from adapt_jax.methods.task_mixtures import (
    MixtureTask,
    Share,
    compute_counts,
    draw_examples,
    hold_out,
    load_tasks,
    without_questions,
)
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt, resolve_template
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.summary import fold_question
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import TokenizedExamples
from adapt_jax.training.tuned_decoder import TunedDecoder

__all__ = ["InstructionTuning"]

DEFAULT_MIXTURE = "arithmetic"


@METHODS.register("instruction_tuning")
class InstructionTuning(TuningMethod):
    """Trains every parameter on a mixture of tasks; the task's training split is one of them.

    Attributes:
        tasks: task files of the mixture, as paths or ``{task, rate, cap}``. The run's own task is
            one of the mixture, whether it is listed or not.
        mixture: a name in mixtures.MIXTURES, or a .jsonl or .json file in Alpaca's form
            (instruction, input, output, and optionally category); by default ``arithmetic`` where
            there are no ``tasks``, and none where there are.
        held_out: names of tasks, or categories of examples, that are left out of the training and
            evaluated instead; null is the mixture's own choice.
        examples_per_category: training examples of each category of ``mixture``.
        max_examples_per_task: examples that one of ``tasks`` counts for at most, unless its ``cap``
            says otherwise.
        mixture_size: examples drawn from ``tasks``; by default as many as they count for.
        temperature: of the shares of ``tasks``, which are in proportion to their sizes to the power
            of 1/temperature: 1 is proportional, a high one makes them equal.
        few_shot_share: share of the examples that are trained on after demonstrations.
        max_demonstrations: before such an example there are 1 to this many.
        inversion_share: share of the examples whose question is trained on, after the answer.
        eval_size: examples of each held-out kind that are evaluated.
    """

    # its training step is that of fine_tuning
    inspected_by_default: ClassVar[bool] = False

    training: TrainingConfig = TrainingConfig(learning_rate=1e-3)
    tasks: list[MixtureTask] = []
    mixture: str | None = None
    held_out: list[str] | None = None
    examples_per_category: int = Field(200, gt=0, le=1_000_000)
    max_examples_per_task: int = Field(3000, gt=0, le=100_000_000)
    mixture_size: int | None = Field(None, gt=0, le=100_000_000)
    temperature: float = Field(1.0, ge=0.1, le=1000)
    few_shot_share: float = Field(0.0, ge=0, le=1)
    max_demonstrations: int = Field(4, gt=0, le=1000)
    inversion_share: float = Field(0.0, ge=0, le=1)
    eval_size: int = Field(40, gt=0, le=1_000_000)
    _loaded: list[Task] | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _expand_paths(cls, values: Any) -> Any:
        """A text in ``tasks`` is a task file."""
        if isinstance(values, dict) and isinstance(values.get("tasks"), list):
            tasks = [{"task": one} if isinstance(one, str) else one for one in values["tasks"]]
            return {**values, "tasks": tasks}
        return values

    @model_validator(mode="after")
    def _check_shares(self) -> "InstructionTuning":
        if self.few_shot_share + self.inversion_share > 1:
            raise ValueError("few_shot_share and inversion_share add up to more than 1")
        return self

    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """Every parameter."""
        return nnx.Param

    def list_inputs(self) -> list[Any]:
        """The tasks of the mixture."""
        return [
            replace(task, warnings=(), summary=None, question_format=None)
            for task in self._load_tasks()
        ]

    def list_extensions(self) -> list[Any]:
        """The parsers and scorers of the tasks, some of which may be evaluated."""
        tasks = self._load_tasks()
        return [one for task in tasks for one in (PARSERS[task.parser], find_scorer(task))]

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """Builds the prompt; a held-out task needs no training split."""
        if task.name in (self.held_out or ()) and not task.train:
            task = replace(task, train=task.test)
        return super().build_prompt(model, task, seed)

    def training_examples(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, seed: int, max_length: int
    ) -> TokenizedExamples:
        """The mixture, without any question that is evaluated.

        Raises:
            UserError: an unknown mixture, task or category, or nothing is left to train on.
        """
        parts = self._build_parts(model, task, seed)
        forms = Forms(
            self.few_shot_share, self.max_demonstrations, self.inversion_share, self.reasoning
        )
        return tokenize_parts(model, prompt, parts, forms, seed, max_length=max_length)

    def validation_examples(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, max_length: int
    ) -> TokenizedExamples:
        """The development split, each example with its prompt prefix: training shares none."""
        return super().validation_examples(model, prompt, task, max_length).with_prefix()

    def held_out_tasks(self, model: PretrainedDecoder, task: Task, seed: int) -> list[Task]:
        """The kinds that the training leaves out, each asked as its own task asks."""
        return self._divide_tasks(model, task, seed)[1]

    def _load_tasks(self) -> list[Task]:
        if self._loaded is None:
            self._loaded = load_tasks(self.tasks)
        return self._loaded

    def _divide_tasks(
        self, model: PretrainedDecoder, task: Task, seed: int
    ) -> tuple[list[Task], list[Task]]:
        """The tasks that are trained on, the run's own first, and those that are held out."""
        others = [resolve_template(one, model) for one in self._load_tasks()]
        tasks = [task, *(one for one in others if one.name != task.name)]
        held_out = self.held_out or []
        if name := self.mixture or (None if self.tasks else DEFAULT_MIXTURE):
            options = MixtureOptions(self.examples_per_category, self.eval_size, seed)
            # its instructions have their own words, and are asked in the template of the task
            tasks.append(replace(load_mixture(name, options), template=task.template))
            if self.held_out is None:
                held_out = list(DEFAULT_HELD_OUT.get(name, ()))
        return hold_out(tasks, held_out, self.eval_size, seed)

    def _build_parts(self, model: PretrainedDecoder, task: Task, seed: int) -> list[Part]:
        """What is trained on, task by task."""
        trained, evaluated = self._divide_tasks(model, task, seed)
        asked = [*task.development, *task.test]
        asked += [example for one in evaluated for example in one.test]
        questions = {fold_question(example) for example in asked}
        pools = [without_questions(one.train, questions) for one in trained]

        # how many examples of each task
        listed = [one.name for one in self._load_tasks()]
        entries = dict(zip(listed, self.tasks, strict=True))
        shares = []
        for one, pool in zip(trained, pools, strict=True):
            entry = entries.get(one.name, MixtureTask(task=one.name))
            is_capped = one.name in entries or (one.name == task.name and self.tasks)
            cap = entry.cap or (self.max_examples_per_task if is_capped else len(pool))
            shares.append(Share(min(len(pool), cap), entry.rate))
        counts = compute_counts(shares, self.temperature, self.mixture_size)
        return [
            Part(one, draw_examples(one, pool, count, seed), pool)
            for one, pool, count in zip(trained, pools, counts, strict=True)
        ]
