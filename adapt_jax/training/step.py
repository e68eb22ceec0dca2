"""The training step, whole: loss, gradients of what is trainable, update."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from adapt_jax.decoders.attention import KVPair
from adapt_jax.training.config import TrainingConfig, compute_dtype
from adapt_jax.training.cross_entropy import Objective
from adapt_jax.training.packing import Batch
from adapt_jax.training.tuned_decoder import TunedDecoder

DEFAULT = TrainingConfig()


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """What changes from step to step; frozen weights are not in it."""

    trainable: Any
    opt_state: Any


def make_step(
    graph: nnx.GraphDef,
    update: optax.GradientTransformation,
    config: TrainingConfig = DEFAULT,
    *,
    ensemble: bool = False,
) -> Callable[..., Any]:
    """The training step, compiled: gradients exist for the trainable state only.

    A batch whose arrays have one more axis in front is taken part by part; gradients, sums of
    parts, are those of the whole: each part's loss is divided by the targets of the whole step.
    The prefix is encoded before the first part, and what they all pull at goes back through it.

    The state of an ensemble has an axis of members in front, the optimizer's part of it too: each
    member takes the step that it would take alone, on the same batch; measured is their mean.

    Returns:
        (state, frozen, batch, front) -> the next state, and what was measured on the way: loss,
        accuracy, and gradient_norm, before clipping; one that is not finite shows in it at once.
    """
    objective = Objective(config.label_smoothing, config.z_loss)
    dtype = compute_dtype(config)

    def prefix(trainable: Any, frozen: Any, prompt_prefix: jax.Array) -> list[KVPair]:
        model: TunedDecoder = nnx.merge(graph, trainable, frozen)
        return model.prefix(prompt_prefix, dtype)

    def loss(trainable: Any, prefix: Any, frozen: Any, part: Batch, count: jax.Array) -> Any:
        model: TunedDecoder = nnx.merge(graph, trainable, frozen)
        return model.loss(part, prefix, dtype, count=count, objective=objective, remat=config.remat)

    def step(state: TrainState, frozen: Any, batch: Batch, prompt_prefix: jax.Array) -> Any:
        count = batch.target_weight.sum()
        keys_values, back = jax.vjp(
            lambda given: prefix(given, frozen, prompt_prefix), state.trainable
        )

        def of_part(part: Batch) -> Any:
            compute = jax.value_and_grad(loss, (0, 1), has_aux=True)
            return compute(state.trainable, keys_values, frozen, part, count)

        def accumulate(sums: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, of_part(part)), None

        if batch.tokens.ndim == 2:
            sums = of_part(batch)
        else:
            first = jax.eval_shape(of_part, jax.tree.map(lambda leaf: leaf[0], batch))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), first)
            sums, _ = jax.lax.scan(accumulate, zeros, batch)
        (nats, accuracy), (gradients, at_prefix) = sums
        if keys_values:
            at_prefix = jax.tree.map(lambda sum, one: sum.astype(one.dtype), at_prefix, keys_values)
            gradients = jax.tree.map(jnp.add, gradients, *back(at_prefix))
        changes, opt_state = update.update(gradients, state.opt_state, state.trainable)
        norm = optax.tree.norm(gradients)
        measured = {"loss": nats, "accuracy": accuracy, "gradient_norm": norm}
        return TrainState(optax.apply_updates(state.trainable, changes), opt_state), measured

    def together(state: TrainState, frozen: Any, batch: Batch, prompt_prefix: jax.Array) -> Any:
        each = jax.vmap(step, in_axes=(0, None, None, None))
        state, measured = each(state, frozen, batch, prompt_prefix)
        return state, jax.tree.map(jnp.mean, measured)

    whole = together if ensemble else step
    return jax.jit(whole, donate_argnums=0, compiler_options=compiler_options())


# YNNPACK's large products of two threads are slower than Eigen's; what it fuses with sums is not.
OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


@functools.cache
def compiler_options() -> dict[str, str]:
    """What XLA is told where a CPU takes the steps: 4 to 7 % less time on two cores (RESULTS.md).

    Nothing, where this XLA does not know it.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(jnp.negative, compiler_options=OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return OPTIONS


def init_state(
    update: optax.GradientTransformation, trainable: Any, *, ensemble: bool = False
) -> TrainState:
    """The state before the first step. Not jitted: slots lie where parameters lie."""
    return TrainState(trainable, (jax.vmap(update.init) if ensemble else update.init)(trainable))
