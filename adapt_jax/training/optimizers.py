"""Optimizers and schedules by name, all from optax."""

from typing import Any

import jax
import optax

from adapt_jax.training.config import TrainingConfig

__all__ = ["make_optimizer", "make_schedule"]


def make_schedule(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up to the learning rate, then constant, or down to zero at the last step."""
    rate, warmup = config.learning_rate, config.num_warmup_steps
    rest = max(config.steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(rate, rest),
    }[config.schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def _matrix_mask(params: Any) -> Any:
    """True for what weight decay applies to: matrices, not norms and biases.

    The biases of experts are matrices, too, with a row for each.
    """

    def is_matrix(path: Any, leaf: Any) -> bool:
        return bool(leaf.ndim > 1 and "_bias" not in jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """The optimizer of a run, clipping included."""
    rate, decay = make_schedule(config), config.weight_decay
    chosen = {
        "adamw": lambda: optax.adamw(rate, b2=config.beta2, weight_decay=decay, mask=_matrix_mask),
        "adafactor": lambda: optax.adafactor(
            rate,
            multiply_by_parameter_scale=False,
            weight_decay_rate=decay or None,
            weight_decay_mask=_matrix_mask,
        ),
        "lion": lambda: optax.lion(rate, weight_decay=decay, mask=_matrix_mask),
        "sgd": lambda: optax.chain(optax.add_decayed_weights(decay, _matrix_mask), optax.sgd(rate)),
    }[config.optimizer]()
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), chosen)
