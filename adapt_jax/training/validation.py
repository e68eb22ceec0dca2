"""Validation during training: the metric of the development split, and the best step."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
from flax import nnx

from adapt_jax.decoders.execution import UNROLLED, Execution
from adapt_jax.decoders.prefix import PrefixCache
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.metrics_log import Row
from adapt_jax.training.packing import Batch, BatchShape, TrainingExample, pack
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError

__all__ = ["AccuracyFn", "BestStep", "Validation", "Validator"]

log = logging.getLogger("adapt_jax")

AccuracyFn = Callable[[Any, TunedDecoder], float]  # (prompt, decoder) -> share of right answers


@dataclass(frozen=True)
class Validation:
    """The development split: examples as they are trained on, and how its questions are asked."""

    examples: Sequence[TrainingExample]
    prompt: Any = None


@dataclass
class BestStep:
    """The best step so far by ``metric``, and how many validations came after it."""

    metric: str
    step: int | None = None
    value: float | None = None
    stale: int = 0

    def update(self, step: int, value: float) -> bool:
        """Takes a step's value into account, and says whether it is the best; the first of equals
        is."""
        sign = 1.0 if self.metric == "accuracy" else -1.0
        if self.value is not None and sign * value <= sign * self.value:
            self.stale += 1
            return False
        self.step, self.value, self.stale = step, value, 0
        return True

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, for a checkpoint."""
        return asdict(self)


class Validator:
    """Measures what is trained on the development split, in batches of the training's own shape."""

    def __init__(
        self,
        validation: Validation,
        accuracy_fn: AccuracyFn | None,
        config: TrainingConfig,
        shape: BatchShape,
        graph: nnx.GraphDef,
        loaded: Any,
        place_batch: Callable[[Batch], Batch],
        ensemble: bool = False,
        execution: Execution = UNROLLED,
    ):
        """Packs the examples; those that are longer than a row are left out, with a warning.

        The loss of an ensemble is the mean of its members'; its accuracy is that of their vote.

        Args:
            loaded: the frozen weights as the adaptation will have them; its accuracy is theirs.
            execution: how the layers run on the platform.

        Raises:
            UserError: no example is left, or ``metric`` is accuracy and ``accuracy_fn`` is None.
        """
        if config.metric == "accuracy" and accuracy_fn is None:
            raise UserError("training.metric accuracy: there is nothing here that can be asked")
        self._metric, self._accuracy_fn = config.metric, accuracy_fn
        self._prompt = validation.prompt
        self._graph, self._loaded = graph, loaded
        examples = _select_fitting(validation.examples, shape)
        self._batches = [
            (place_batch(batch), float(batch.target_weight.sum()))
            for batch in _pack_all(examples, shape, config)
        ]

        def prefix(trainable: Any, frozen: Any, prompt_prefix: jax.Array) -> PrefixCache:
            model: TunedDecoder = nnx.merge(graph, trainable, frozen)
            return model.prefix(prompt_prefix, execution=execution)

        def loss(trainable: Any, prefix: PrefixCache, frozen: Any, batch: Batch) -> jax.Array:
            model: TunedDecoder = nnx.merge(graph, trainable, frozen)
            return model.loss(batch, prefix, execution=execution)[0]

        each = jax.vmap(loss, in_axes=(0, 0, None, None)) if ensemble else loss
        self._prefix = jax.jit(jax.vmap(prefix, in_axes=(0, None, None)) if ensemble else prefix)
        self._loss = jax.jit(lambda *arguments: each(*arguments).mean())

    def measure(self, trainable: Any, frozen: Any, prompt_prefix: jax.Array) -> Row:
        """``development_loss``, nats per target token of them all; ``development_accuracy``, where
        that is the metric."""
        prefix = self._prefix(trainable, frozen, prompt_prefix)
        losses = [self._loss(trainable, prefix, frozen, batch) for batch, _ in self._batches]
        weights = [weight for _, weight in self._batches]
        total = sum(float(loss) * weight for loss, weight in zip(losses, weights, strict=True))
        row = {"development_loss": total / sum(weights)}
        if self._metric == "accuracy":
            assert self._accuracy_fn is not None
            tuned = nnx.merge(self._graph, trainable, self._loaded)
            row["development_accuracy"] = self._accuracy_fn(self._prompt, tuned)
        return row


def _select_fitting(
    examples: Sequence[TrainingExample], shape: BatchShape
) -> list[TrainingExample]:
    """The examples that fit into a batch of this shape.

    Raises:
        UserError: none does.
    """
    fitting = [
        example
        for example in examples
        if len(example.tokens) <= shape.row_length and 0 < example.num_targets <= shape.targets
    ]
    if not fitting:
        raise UserError("training.validate_every: no development example fits into a row")
    if len(fitting) < len(examples):
        left_out = len(examples) - len(fitting)
        log.warning("%d development examples are longer than a row and left out", left_out)
    return fitting


def _pack_all(
    examples: list[TrainingExample], shape: BatchShape, config: TrainingConfig
) -> list[Batch]:
    """Batches that hold every example once; what one has no room for goes into the next."""
    batches, waiting = [], examples
    while waiting:
        taken, rest = waiting[: config.batch_size], waiting[config.batch_size :]
        batch, left_over = pack(taken, shape, packing=config.packing)
        batches.append(batch)
        waiting = [*left_over, *rest]
    return batches
