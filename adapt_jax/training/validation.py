"""Validation during training: how good it is on the development split, and which step was best."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
from flax import nnx

from adapt_jax.decoders.attention import KVPair
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.metrics_log import Row
from adapt_jax.training.packing import Batch, BatchShape, TrainingExample, pack
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError

log = logging.getLogger("adapt_jax")

AccuracyFn = Callable[[Any, TunedDecoder], float]  # (prompt, decoder) -> share of right answers


@dataclass(frozen=True)
class Validation:
    """The development split: examples as they are trained on, and how its questions are asked."""

    examples: Sequence[TrainingExample]
    prompt: Any = None


@dataclass
class Best:
    """The best step so far by ``metric``, and how many validations came after it."""

    metric: str
    step: int | None = None
    value: float | None = None
    stale: int = 0

    def better(self, step: int, value: float) -> bool:
        """Takes the value of a step into account: is it the best? Of equals the first one is."""
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
        config: TrainingConfig,
        shape: BatchShape,
        graph: nnx.GraphDef,
        loaded: Any,
        accuracy_fn: AccuracyFn | None,
        place: Callable[[Batch], Batch],
        ensemble: bool = False,
    ):
        """Packs the examples; those that are longer than a row are left out, and told.

        The loss of an ensemble is the mean of its members'; its accuracy is that of their vote.

        Args:
            loaded: the frozen weights as the adaptation will have them; it is judged on these.

        Raises:
            UserError: no example is left, or the accuracy is asked for where nobody can judge it.
        """
        if config.metric == "accuracy" and accuracy_fn is None:
            raise UserError("training.metric accuracy: there is nothing here that can be asked")
        self.config, self.validation, self.accuracy_fn = config, validation, accuracy_fn
        self.graph, self.loaded = graph, loaded
        fits = [
            example
            for example in validation.examples
            if len(example.tokens) <= shape.row_length and 0 < example.num_targets <= shape.targets
        ]
        if not fits:
            raise UserError("training.validate_every: no development example fits into a row")
        if len(fits) < len(validation.examples):
            left = len(validation.examples) - len(fits)
            log.warning("%d development examples are longer than a row and left out", left)
        self.batches, waiting = [], fits
        while waiting:
            taken, rest = waiting[: config.batch_size], waiting[config.batch_size :]
            batch, left_over = pack(taken, shape, packing=config.packing)
            targets = float(batch.target_weight.sum())
            self.batches.append((place(batch), targets))
            waiting = [*left_over, *rest]

        def prefix(trainable: Any, frozen: Any, prompt_prefix: jax.Array) -> list[KVPair]:
            model: TunedDecoder = nnx.merge(graph, trainable, frozen)
            return model.prefix(prompt_prefix)

        def loss(trainable: Any, prefix: list[KVPair], frozen: Any, batch: Batch) -> jax.Array:
            model: TunedDecoder = nnx.merge(graph, trainable, frozen)
            return model.loss(batch, prefix)[0]

        each = jax.vmap(loss, in_axes=(0, 0, None, None)) if ensemble else loss
        self._prefix = jax.jit(jax.vmap(prefix, in_axes=(0, None, None)) if ensemble else prefix)
        self._loss = jax.jit(lambda *given: each(*given).mean())

    def measure(self, trainable: Any, frozen: Any, prompt_prefix: jax.Array) -> Row:
        """``development_loss``, nats per target token of them all, and perhaps the accuracy."""
        prefix = self._prefix(trainable, frozen, prompt_prefix)
        losses = [self._loss(trainable, prefix, frozen, batch) for batch, _ in self.batches]
        sizes = [targets for _, targets in self.batches]
        total = sum(float(loss) * size for loss, size in zip(losses, sizes, strict=True))
        row = {"development_loss": total / sum(sizes)}
        if self.config.metric == "accuracy":
            assert self.accuracy_fn is not None
            tuned = nnx.merge(self.graph, trainable, self.loaded)
            row["development_accuracy"] = self.accuracy_fn(self.validation.prompt, tuned)
        return row
