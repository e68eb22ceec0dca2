"""A training run, made ready: everything that its steps need, and how far it has come."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from adapt_jax.decoders.execution import choose_execution
from adapt_jax.training.batches import Batches
from adapt_jax.training.config import TrainingConfig, choose_num_microbatches, prepare_frozen
from adapt_jax.training.optimizers import make_optimizer
from adapt_jax.training.packing import BatchShape, TrainingExample
from adapt_jax.training.placement import Placement
from adapt_jax.training.step import TrainState, find_trained_paths, init_state, make_step
from adapt_jax.training.throughput import StepFlops
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import AccuracyFn, BestStep, Validation, Validator
from adapt_jax.utils.errors import UserError

__all__ = ["TrainingData", "TrainingRun", "set_up_run"]


@dataclass(frozen=True)
class TrainingData:
    """The data that a run is trained and validated on.

    Attributes:
        prompt_prefix: token ids that are prepended, as shared prefix, to every example.
        shape: of the batches of an endless source (see Batches).
        validation: the development split.
        accuracy_fn: answers the development questions, for ``training.metric: accuracy``.
    """

    examples: Sequence[TrainingExample]
    prompt_prefix: Sequence[int] = ()
    shape: BatchShape | None = None
    validation: Validation | None = None
    accuracy_fn: AccuracyFn | None = None


@dataclass
class TrainingRun:
    """All that the steps of a run need, and how many are done.

    Attributes:
        step: (state, frozen, batch, prompt_prefix) -> the next state and the metrics.
        frozen: what is not trained, in the dtype of the run.
        loaded: the same in the dtype in which it was loaded.
        num_trainable: trained parameters.
        state: after ``steps_done`` steps.
        best: the best step so far, by validation.
        best_weights: what was trainable after it; None where the last step counts.
    """

    config: TrainingConfig
    placement: Placement
    batches: Batches
    prompt_prefix: jax.Array
    step: Callable[..., Any]
    flops: StepFlops
    frozen: Any
    loaded: Any
    num_trainable: int
    validator: Validator | None
    state: TrainState
    best: BestStep
    best_weights: Any = None
    steps_done: int = 0

    @property
    def has_lost_patience(self) -> bool:
        """Whether too many validations came after the best one."""
        return self.config.patience is not None and self.best.stale >= self.config.patience

    def should_validate(self, step: int) -> bool:
        """Whether the development split is measured after this step (from 1)."""
        is_due = step == self.config.steps or step % max(self.config.validate_every, 1) == 0
        return self.validator is not None and is_due

    def validate(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Measures the development split; remembers the weights of a step that is the best yet.

        Returns:
            whether it is, and the row of the log.

        Raises:
            UserError: the loss is not finite, so no step could be compared with this one.
        """
        assert self.validator is not None
        row = self.validator.measure(self.state.trainable, self.frozen, self.prompt_prefix)
        if not math.isfinite(loss := row["development_loss"]):
            raise UserError(
                f"after step {step} the loss of the development split is {loss:.4g}; "
                "try a lower learning rate"
            )
        improved = self.best.update(step, row[f"development_{self.config.metric}"])
        if improved:
            self.best_weights = jax.tree.map(jnp.copy, self.state.trainable)
        return improved, {"step": step, **row, "best_step": self.best.step}

    @property
    def final_weights(self) -> Any:
        """The result of the run: the best step's trainable state, or the last one's."""
        return self.state.trainable if self.best_weights is None else self.best_weights


def set_up_run(
    model: TunedDecoder,
    trainable: Any,
    data: TrainingData,
    config: TrainingConfig,
    seed: int,
    placement: Placement,
) -> TrainingRun:
    """The run before its first step.

    Args:
        trainable: an nnx filter of the part of ``model`` that is trained.

    Raises:
        UserError: nothing to train, nothing to validate on, or batches that cannot be made.
    """
    if config.validate_every and data.validation is None:
        raise UserError("training.validate_every needs a development split; there is none")
    if data.shape is not None:
        placement.check_shape(data.shape)
    # The model in two: what is trained, in a copy (the state is donated, the caller's arrays are
    # not), and what is frozen.
    graph, weights, loaded = nnx.split(model, trainable, ...)  # type: ignore[misc]
    num_trainable = sum(leaf.size for leaf in jax.tree.leaves(weights))
    if num_trainable == 0:
        raise UserError("nothing is trainable: the chosen part of the decoder has no parameter")
    weights = placement.place_parameters(jax.tree.map(jnp.copy, weights))
    loaded = placement.place_parameters(loaded)
    batches = _make_batches(data, config, seed, placement)
    is_ensemble, optimizer = bool(model.ensemble), make_optimizer(config)
    validator = None
    if data.validation is not None and config.validate_every:
        validator = Validator(
            data.validation, data.accuracy_fn, config, batches.shape,
            graph, loaded, placement.place_batch, is_ensemble,
            choose_execution(placement.mesh, config.remat, find_trained_paths(weights)),
        )  # fmt: skip
    prefix_length = len(data.prompt_prefix) + model.soft_prompt_length
    return TrainingRun(
        config=config,
        placement=placement,
        batches=batches,
        prompt_prefix=jnp.asarray(data.prompt_prefix, jnp.int32),
        step=make_step(graph, optimizer, config, ensemble=is_ensemble, mesh=placement.mesh),
        flops=StepFlops(weights, loaded, prefix_length, model.ensemble or 1),
        frozen=prepare_frozen(loaded, config),
        loaded=loaded,
        num_trainable=num_trainable,
        validator=validator,
        state=placement.place_train_state(init_state(optimizer, weights, ensemble=is_ensemble)),
        best=BestStep(config.metric),
    )


def _make_batches(
    data: TrainingData, config: TrainingConfig, seed: int, placement: Placement
) -> Batches:
    return Batches(
        data.examples,
        config.batch_size,
        config.steps,
        seed=seed,
        row_length=config.row_length,
        shape=data.shape,
        row_multiple=placement.row_multiple,
        num_microbatches=choose_num_microbatches(config, placement.mesh),
        packing=config.packing,
    )
