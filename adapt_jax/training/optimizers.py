"""Optimizers and schedules by name, all from optax."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapt_jax.decoders.sharding import platform_of
from adapt_jax.training.int8 import quantized


class TrainingConfig(BaseModel):
    """What every training run has, whatever it trains.

    ``batch_size`` counts examples of a step; ``learning_rate`` is the schedule's peak. The 0.3 of
    the prompt tuning paper belongs to Adafactor without parameter scaling on T5 (2104.08691).
    ``checkpoint_every`` counts steps, 0 is never; not given, the clock decides (see checkpoints).
    ``validate_every`` so many steps the development split is measured by ``metric``, and the best
    step is what the training yields; after ``patience`` validations without a better one it ends.

    ``packing`` lays a step's examples into rows: ``best_fit`` puts as many behind each other as a
    row holds (attention stays within each); with ``none`` each has a row of its own, as long as the
    bucket (64, 128, 256, ... tokens) of the step's longest, and a step is compiled for each bucket.
    Steps hold the same examples either way. ``row_length`` is the longest row.

    ``accumulate`` splits the rows of a step into so many parts that are computed one after the
    other, which takes less memory and changes no gradient. Not given, it is 1; on one CPU device as
    many as have 2,048 tokens or more: half the memory, and up to a tenth faster. ``remat``
    computes again what the backward pass needs: all of a ``layers``, or all but its matrix
    ``products``.
    ``compute_dtype`` is float32 on a CPU and bfloat16 elsewhere; what is trained, its gradients and
    the optimizer stay float32. ``frozen_dtype`` may hold what is not trained in bfloat16, or, for
    prompt tuning and LoRA, in int8 (see int8): during the run only, in a copy. The adaptation has
    the weights as they were loaded, and is judged on them (``metric: accuracy``).
    ``label_smoothing`` and ``z_loss``: see cross_entropy.Objective.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(300, gt=0)
    batch_size: int = Field(32, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    optimizer: Literal["adamw", "adafactor", "lion", "sgd"] = "adamw"
    beta2: float = Field(0.99, gt=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    packing: Literal["best_fit", "none"] = "best_fit"
    row_length: int | None = Field(None, gt=1)
    checkpoint_every: int | None = Field(None, ge=0)
    keep_checkpoints: int = Field(2, gt=0)
    validate_every: int = Field(0, ge=0)
    metric: Literal["loss", "accuracy"] = "loss"
    patience: int | None = Field(None, gt=0)
    track: list[Literal["tensorboard", "wandb"]] = []
    accumulate: int | None = Field(None, gt=0)
    remat: Literal["none", "products", "layers"] = "none"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    frozen_dtype: Literal["kept", "bfloat16", "int8"] = "kept"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    z_loss: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _patience_needs_validation(self) -> "TrainingConfig":
        if self.patience is not None and not self.validate_every:
            raise ValueError("patience counts validations; set validate_every too")
        return self

    @model_validator(mode="after")
    def _parts_hold_examples(self) -> "TrainingConfig":
        if self.accumulate is not None and self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate {self.accumulate} makes more parts than the {self.batch_size} "
                "examples of batch_size"
            )
        return self


def compute_dtype(config: TrainingConfig) -> Any:
    """What a step computes in; bfloat16 products are slow on a CPU."""
    if config.compute_dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.compute_dtype)


def parts(config: TrainingConfig, mesh: Mesh | None) -> int | None:
    """In how many parts a step is computed; None: as a CPU's cache would have it (see Batches)."""
    alone = mesh is None or mesh.size == 1
    if config.accumulate is None and not (alone and platform_of(mesh) == "cpu"):
        return 1
    return config.accumulate


def held(frozen: Any, trained: Any, config: TrainingConfig) -> Any:
    """What is not trained, in the type in which it is held during the run.

    Raises:
        UserError: int8, where weights of the decoder itself are trained.
    """
    if config.frozen_dtype == "kept":
        return frozen
    if config.frozen_dtype == "int8":
        return quantized(frozen, trained)
    floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if floating(leaf) else leaf, frozen)


def schedule(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up to the learning rate, then constant, or down to zero at the last step."""
    rate, warmup = config.learning_rate, min(config.warmup_steps, config.steps - 1)
    rest = max(config.steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(rate, rest),
    }[config.schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def matrices(params: Any) -> Any:
    """True for what weight decay applies to: matrices, not norms and biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """The optimizer of a run, clipping included."""
    rate, decay = schedule(config), config.weight_decay
    chosen = {
        "adamw": lambda: optax.adamw(rate, b2=config.beta2, weight_decay=decay, mask=matrices),
        "adafactor": lambda: optax.adafactor(
            rate,
            multiply_by_parameter_scale=False,
            weight_decay_rate=decay or None,
            weight_decay_mask=matrices,
        ),
        "lion": lambda: optax.lion(rate, weight_decay=decay, mask=matrices),
        "sgd": lambda: optax.chain(optax.add_decayed_weights(decay, matrices), optax.sgd(rate)),
    }[config.optimizer]()
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), chosen)
