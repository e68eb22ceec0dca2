"""The training step, whole: loss, gradients of what is trainable, update."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from adapt_jax.decoders.execution import Execution, ParameterPath, choose_execution
from adapt_jax.decoders.prefix import PrefixCache
from adapt_jax.training.chunk_loss import Objective
from adapt_jax.training.config import TrainingConfig, compute_dtype
from adapt_jax.training.packing import Batch
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.cpu import step_compiler_options

__all__ = ["TrainState", "find_trained_paths", "init_state", "make_step"]

DEFAULT = TrainingConfig()


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """All that changes from step to step; frozen weights are not in it."""

    trainable: Any
    opt_state: Any


def make_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig = DEFAULT,
    *,
    ensemble: bool = False,
    mesh: Mesh | None = None,
) -> Callable[..., Any]:
    """The training step, compiled: gradients exist for the trainable state only.

    A batch whose arrays have one more leading axis is taken one microbatch after the other. Their
    gradients add up to those of the whole batch, because each loss is divided by the targets of
    the whole step. The prefix is encoded before the first microbatch, and its accumulated
    cotangent is back-propagated once, after the last.

    Args:
        mesh: the devices that share the arrays; None for one device.

    Returns:
        (state, frozen, batch, prompt_prefix) -> the next state, and the metrics: loss, accuracy,
        and gradient_norm before clipping, which shows at once when a gradient is not finite.
    """
    objective = Objective(config.label_smoothing, config.z_loss)
    dtype = compute_dtype(config)

    def execution_for(trainable: Any) -> Execution:
        return choose_execution(mesh, config.remat, find_trained_paths(trainable))

    def encode(prompt_prefix: jax.Array, frozen: Any, trainable: Any) -> PrefixCache:
        model: TunedDecoder = nnx.merge(graph, trainable, frozen)
        return model.prefix(prompt_prefix, dtype, execution_for(trainable))

    def loss(trainable: Any, prefix: Any, frozen: Any, batch: Batch, count: jax.Array) -> Any:
        model: TunedDecoder = nnx.merge(graph, trainable, frozen)
        execution = execution_for(trainable)
        return model.loss(
            batch, prefix, dtype, count=count, objective=objective, execution=execution
        )

    def step(state: TrainState, frozen: Any, batch: Batch, prompt_prefix: jax.Array) -> Any:
        # The prefix, and the function that takes its cotangent back to the trainable state.
        prefix, back_propagate = jax.vjp(partial(encode, prompt_prefix, frozen), state.trainable)
        count = batch.target_weight.sum()

        def differentiate(microbatch: Batch) -> Any:
            compute = jax.value_and_grad(loss, (0, 1), has_aux=True)
            return compute(state.trainable, prefix, frozen, microbatch, count)

        # Loss, accuracy and gradients of all microbatches.
        (nats, accuracy), (gradients, cotangent) = _sum_over_microbatches(differentiate, batch)

        gradients = _add_through_prefix(gradients, prefix, cotangent, back_propagate)

        changes, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, changes)
        metrics = {"loss": nats, "accuracy": accuracy, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(trainable, opt_state), metrics

    function = _step_members(step) if ensemble else step
    return jax.jit(function, donate_argnums=0, compiler_options=step_compiler_options(dtype))


def find_trained_paths(trainable: Any) -> frozenset[ParameterPath]:
    """The paths, in the decoder, of those of its parameters that are trained."""
    paths = (path for path, _ in nnx.to_flat_state(trainable))
    return frozenset(path[1:] for path in paths if path[0] == "decoder")


def _step_members(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step of an ensemble, whose state has a leading axis of members.

    Each member takes the step that it would take alone, on the same batch; the metrics are their
    mean.
    """

    def ensemble_step(state: TrainState, frozen: Any, batch: Batch, prefix: jax.Array) -> Any:
        each = jax.vmap(step, in_axes=(0, None, None, None))
        state, metrics = each(state, frozen, batch, prefix)
        return state, jax.tree.map(jnp.mean, metrics)

    return ensemble_step


def _sum_over_microbatches(differentiate: Callable[[Batch], Any], batch: Batch) -> Any:
    """The sum, in float32, of the function over all microbatches; a batch may be a single one."""
    if batch.tokens.ndim == 2:
        return differentiate(batch)

    def accumulate(sums: Any, microbatch: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, differentiate(microbatch)), None

    first = jax.eval_shape(differentiate, jax.tree.map(lambda leaf: leaf[0], batch))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), first)
    sums, _ = jax.lax.scan(accumulate, zeros, batch)
    return sums


def _add_through_prefix(
    gradients: Any, prefix: PrefixCache, cotangent: Any, back_propagate: Callable[[Any], Any]
) -> Any:
    """The gradients, with those that reach the trainable state through the prefix."""
    if not prefix.padded:
        return gradients
    cotangent = jax.tree.map(lambda sum, one: sum.astype(one.dtype), cotangent, prefix)
    return jax.tree.map(jnp.add, gradients, *back_propagate(cotangent))


def init_state(
    optimizer: optax.GradientTransformation, trainable: Any, *, ensemble: bool = False
) -> TrainState:
    """The state before the first step.

    Not jitted: the optimizer's state then lies where its parameters lie.
    """
    init = jax.vmap(optimizer.init) if ensemble else optimizer.init
    return TrainState(trainable, init(trainable))
