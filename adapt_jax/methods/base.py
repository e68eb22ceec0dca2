"""The contract of a method: a typed configuration that makes an adaptation of a decoder.

A prompting method builds a prompt. A tuning method answers three questions about itself:

    what it trains       ``add_modules`` and ``trainable_filter``
    how that starts      ``initialize``
    what comes of it     ``collect``

Everything else (the command line, the ladder, inspection, saving, export) goes through this
contract and knows no method by its name. ``registry.py`` says how a method is registered.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, JsonValue, model_validator

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.methods.bootstrap import BootstrapOptions, Bootstrapped, bootstrap_reasoning
from adapt_jax.methods.run_options import DEFAULT_RUN, RunOptions
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, check_prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import (
    TokenizedExamples,
    cast_params,
    clone_decoder,
    summarize,
    tokenize_examples,
)
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import AccuracyFn, Validation
from adapt_jax.utils.config import Strict
from adapt_jax.utils.distributed import fetch_array

__all__ = [
    "DEFAULT_RUN",
    "InitContext",
    "Method",
    "MethodResult",
    "PromptingMethod",
    "RunOptions",
    "SeedEffect",
    "TuningMethod",
]

SeedEffect = Literal["adaptation", "answers", "none"]


class MethodResult(BaseModel):
    """An adaptation and what it cost; ``model_dump`` yields the part that is plain JSON.

    Attributes:
        losses: of every training step, in nats per target token.
        details: what the method reports of its run, such as the number of training examples.
        held_out: tasks that the training left out, for methods that leave some out; the category
            of an example is its kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adaptation: InstanceOf[Adaptation] = Field(exclude=True)
    trainable_parameters: int = Field(0, ge=0)
    train_seconds: float = Field(0.0, ge=0)
    losses: list[float] = Field([], exclude=True)
    details: dict[str, JsonValue] = {}
    held_out: list[InstanceOf[Task]] = Field([], exclude=True)


class Method(Strict, ABC):
    """A technique with its options, which are the pydantic fields of the class.

    Attributes:
        name: the key in configuration files, folders and tables.
        inspected_by_default: whether ``adapt-jax inspect`` measures it when no method is named.
    """

    name: ClassVar[str]
    inspected_by_default: ClassVar[bool] = False

    def list_extensions(self) -> list[Any]:
        """The registered extensions that the method uses: an edit of one changes its result."""
        return []

    def list_inputs(self) -> list[Any]:
        """What the result depends on besides the options, the task and the decoder."""
        return []

    def seed_effect(self, model: PretrainedDecoder, task: Task, seeds: Sequence[int]) -> SeedEffect:
        """What these seeds change: the adaptation, the answers of one adaptation, or nothing."""
        return "adaptation"

    def answer_limit(self) -> int | None:
        """New tokens of an answer, at most; None where none is generated."""
        return getattr(self, "max_new_tokens", None)

    @abstractmethod
    def adapt(
        self, model: PretrainedDecoder, task: Task, run: RunOptions = DEFAULT_RUN
    ) -> MethodResult:
        """Adapts the decoder to the task. The weights of ``model`` itself stay unchanged.

        Raises:
            MethodNotApplicable: with the reason why this method cannot run on this task or decoder.
            UserError: an option that does not fit the decoder or the task.
        """


class PromptingMethod(Method):
    """A method that trains nothing: it chooses what is prepended to the question.

    Attributes:
        max_new_tokens: limit of the generated answer.
    """

    max_new_tokens: int = Field(128, gt=0, le=1_000_000)

    @abstractmethod
    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The prompt; the same seed yields the same prompt.

        Raises:
            MethodNotApplicable: the task lacks what the method needs.
        """

    def prepare_task(self, model: PretrainedDecoder, task: Task, run: RunOptions) -> Bootstrapped:
        """The task that the prompt is built for; a method may write what the data lacks."""
        return Bootstrapped(task)

    def draw_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """A prompt with demonstrations drawn by the seed, for a search; here there are none."""
        return self.build_prompt(model, task, seed)

    def generation_config(self, stop: tuple[str, ...] = ()) -> GenerationConfig:
        """How answers are generated: one greedy candidate, if the method does not override it."""
        return GenerationConfig(max_new_tokens=self.max_new_tokens, stop=stop)

    @property
    def stops_early(self) -> bool:
        """Whether a question may be decided before all of its candidates are drawn."""
        return False

    def seed_effect(self, model: PretrainedDecoder, task: Task, seeds: Sequence[int]) -> SeedEffect:
        """The seed may choose what is shown; otherwise it counts where candidates are sampled."""
        if getattr(self, "bootstrap", None) is not None:
            return "adaptation"  # the decoder writes what is shown
        try:
            first, *others = (self.build_prompt(model, task, seed) for seed in seeds)
        except MethodNotApplicable:
            return "none"  # one run says so
        if any(prompt != first for prompt in others):
            return "adaptation"
        return "answers" if first.generation_config.temperature > 0 else "none"

    def adapt(
        self, model: PretrainedDecoder, task: Task, run: RunOptions = DEFAULT_RUN
    ) -> MethodResult:
        """The decoder as it is, with the prompt."""
        written = self.prepare_task(model, task, run)
        prompt = self.build_prompt(model, written.task, run.seed)
        check_prompt(model, prompt, task)
        return MethodResult(
            adaptation=Adaptation(self.name, prompt, model),
            train_seconds=written.seconds,
            details=written.details,
        )


@dataclass(frozen=True)
class InitContext:
    """All that a tuning method may start from.

    Attributes:
        model: the decoder as it was loaded.
        examples: the tokenized training examples.
        prompt_prefix: token ids that all of them share.
    """

    model: PretrainedDecoder
    task: Task
    examples: TokenizedExamples
    seed: int

    @property
    def prompt_prefix(self) -> tuple[int, ...]:
        """Token ids that are prepended to every training example."""
        return self.examples.prompt_prefix


class TuningMethod(Method):
    """A method that trains. Its own options are the fields that a subclass adds.

    By default nothing is added to the decoder, what ``trainable_filter`` selects starts from the
    pretrained values, and the result is a decoder with weights of its own.

    Attributes:
        reasoning: train on reasoning and answer where the data has reasoning; otherwise on the
            answer alone.
        bootstrap: the decoder writes the reasoning itself, and only examples that have one are
            trained on (STaR, 2203.14465); see ``BootstrapOptions``.
        max_new_tokens: limit of the answer that the tuned decoder generates.
    """

    inspected_by_default: ClassVar[bool] = True

    training: TrainingConfig = TrainingConfig()
    reasoning: bool = True
    bootstrap: BootstrapOptions | None = None
    max_new_tokens: int = Field(128, gt=0, le=1_000_000)

    @model_validator(mode="after")
    def _check_reasoning(self) -> "TuningMethod":
        if self.bootstrap is not None and not self.reasoning:
            raise ValueError("bootstrap writes reasonings, and `reasoning: false` trains on none")
        return self

    def add_modules(self, decoder: Decoder, rngs: nnx.Rngs) -> TunedDecoder:
        """Adds what the method trains besides the decoder's own parameters.

        It runs on a copy of the decoder whose arrays are shared with the original. ``inspect``
        runs it on abstract arrays too, so it must not read a parameter's values.
        """
        return TunedDecoder(decoder)

    @abstractmethod
    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """An nnx filter of the parameters that are trained, such as ``nnx.PathContains("lora")``.

        Paths begin with "decoder" or "soft_prompt".

        Raises:
            UserError: the options select something that this decoder does not have.
        """

    def prepare_to_answer(self, decoder: Decoder) -> None:
        """Computes once, in place, what stays the same while a decoder in training answers."""

    def initialize(self, tuned: TunedDecoder, context: InitContext) -> None:
        """Sets the initial values, in place, where they depend on the data."""

    def collect(self, tuned: TunedDecoder, model: PretrainedDecoder, prompt: Prompt) -> Adaptation:
        """The adaptation, which says what is saved: here all weights of the tuned decoder.

        Args:
            tuned: after the training; its parameters have the dtypes that they had before.
            model: the decoder as it was loaded.
        """
        own = replace(model, decoder=tuned.decoder)
        return Adaptation(self.name, prompt, own, has_full_weights=True)

    def merged_paths(self, trained: Collection[ParameterPath]) -> Collection[ParameterPath]:
        """Frozen parameters of which ``collect`` makes a changed copy.

        ``inspect`` counts their memory. Paths are those of a TunedDecoder.
        """
        return ()

    def describe_options(self) -> dict[str, Any]:
        """The method's own options, for ``MethodResult.details``."""
        return self.model_dump(mode="json", exclude=set(TuningMethod.model_fields))

    # What it is trained on

    def build_prompt(self, model: PretrainedDecoder, task: Task, seed: int) -> Prompt:
        """The prompt, in training and afterwards: the task's instruction is prepended.

        Raises:
            MethodNotApplicable: the task has no training examples.
        """
        if not task.train:
            raise MethodNotApplicable("the task has no training split")
        return Prompt(
            template=task.template,
            instruction=task.instruction,
            reasoning=self.reasoning and task.has_reasoning,
            parser=task.parser,
            generation_config=GenerationConfig(
                max_new_tokens=self.max_new_tokens, stop=task.template.stop
            ),
        )

    def training_examples(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, seed: int, max_length: int
    ) -> TokenizedExamples:
        """The examples that are trained on: the task's training split.

        Args:
            max_length: tokens of an example, the prompt prefix included.
        """
        return tokenize_examples(model, prompt, task.train, max_length=max_length)

    def validation_examples(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, max_length: int
    ) -> TokenizedExamples:
        """The development split in the form of the training examples."""
        return tokenize_examples(model, prompt, task.development, max_length=max_length)

    def held_out_tasks(self, model: PretrainedDecoder, task: Task, seed: int) -> list[Task]:
        """What the training leaves out, to be evaluated before and after it."""
        return []

    # The one way from these answers to an adaptation

    def adapt(
        self, model: PretrainedDecoder, task: Task, run: RunOptions = DEFAULT_RUN
    ) -> MethodResult:
        """Trains a copy of the decoder, or what is added to it, on the task's training examples."""
        written = bootstrap_reasoning(model, task, self.bootstrap, run)
        task = written.select_reasoned()
        prompt = self.build_prompt(model, task, run.seed)
        decoder = clone_decoder(model.decoder, run.mesh)
        tuned = self.add_modules(decoder, nnx.Rngs(run.seed))

        # examples: what fits into the context after a soft prompt
        max_length = model.config.context_length - tuned.soft_prompt_length
        examples = self.training_examples(model, prompt, task, run.seed, max_length)
        examples.check_not_empty()
        validation = self._make_validation(model, prompt, task, max_length)

        self.initialize(tuned, InitContext(model, task, examples, run.seed))
        trainable = self.trainable_filter(tuned)
        dtypes = cast_params(tuned, trainable, jnp.float32)  # bfloat16 would swallow small updates
        result = train(
            tuned,
            trainable,
            TrainingData(
                examples.examples,
                examples.prompt_prefix,
                validation=validation,
                accuracy_fn=self._make_accuracy_fn(model, task, run),
            ),
            self.training,
            seed=run.seed,
            folder=run.folder,
            mesh=run.mesh,
            on_step=run.on_step,
            run_metadata=run.run_metadata,
        )
        cast_params(tuned, trainable, dtypes)
        details = summarize(examples, result) | written.details | self.describe_options()
        if held_out := self.held_out_tasks(model, task, run.seed):
            kinds = {example.category for one in held_out for example in one.test}
            details["held_out"] = sorted(kinds)
        return MethodResult(
            adaptation=self.collect(tuned, model, prompt),
            trainable_parameters=result.trainable_parameters,
            train_seconds=result.seconds + written.seconds,
            losses=result.losses,
            details=details,
            held_out=held_out,
        )

    def _make_validation(
        self, model: PretrainedDecoder, prompt: Prompt, task: Task, max_length: int
    ) -> Validation | None:
        """The development split, where the training validates.

        Raises:
            MethodNotApplicable: there is no development split, or none of it can be used.
        """
        if not self.training.validate_every:
            return None
        if not task.development:
            raise MethodNotApplicable(
                "training.validate_every needs a development split, the task has none"
            )
        examples = self.validation_examples(model, prompt, task, max_length)
        examples.check_not_empty()
        return Validation(examples.examples, prompt)

    def _make_accuracy_fn(
        self, model: PretrainedDecoder, task: Task, run: RunOptions
    ) -> AccuracyFn:
        """Answers the development split with the decoder at this point of the training."""

        def accuracy(prompt: Prompt, tuned: TunedDecoder) -> float:
            soft_prompt = tuned.soft_prompt
            if soft_prompt is not None:  # fetched from the mesh, if it lies there
                embeddings = jnp.asarray(fetch_array(soft_prompt.embeddings[...]))
                soft_prompt = SoftPrompt(embeddings, soft_prompt.before_bos)
            self.prepare_to_answer(tuned.decoder)
            now = replace(model, decoder=tuned.decoder)
            adaptation = Adaptation(self.name, prompt, now, soft_prompt)
            limit = run.max_concurrent_sequences
            return evaluate(
                adaptation, task, task.development, seed=run.seed, max_concurrent_sequences=limit
            ).accuracy

        return accuracy
