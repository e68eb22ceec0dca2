"""The training step, whole: loss, gradients of what is trainable, update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import nnx

from adapt_jax.tuning.batches import Batch
from adapt_jax.tuning.losses import TunedDecoder


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """What changes from step to step; frozen weights are not in it."""

    trainable: Any
    slots: Any  # the optimizer's


def make_step(graph: nnx.GraphDef, update: optax.GradientTransformation) -> Callable[..., Any]:
    """The training step, compiled: gradients exist for the trainable state only."""

    def loss(trainable: Any, frozen: Any, batch: Batch, front: jax.Array) -> Any:
        model: TunedDecoder = nnx.merge(graph, trainable, frozen)
        return model.loss(batch, front)

    def step(state: TrainState, frozen: Any, batch: Batch, front: jax.Array) -> Any:
        (nats, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.trainable, frozen, batch, front
        )
        changes, slots = update.update(gradients, state.slots, state.trainable)
        return TrainState(optax.apply_updates(state.trainable, changes), slots), nats, accuracy

    return jax.jit(step, donate_argnums=0)
