"""The options of a training run, and what follows from them and from where it runs."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapt_jax.decoders.sharding import platform_of

__all__ = ["TrainingConfig", "choose_num_microbatches", "compute_dtype", "prepare_frozen"]


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

    ``gradient_accumulation_steps`` splits the rows of a step into so many microbatches, computed
    one after the other: less memory, the same gradients. Not given, it is 1; on one CPU device as
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
    trackers: list[Literal["tensorboard", "wandb"]] = []
    gradient_accumulation_steps: int | None = Field(None, gt=0)
    remat: Literal["none", "products", "layers"] = "none"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    frozen_dtype: Literal["bfloat16"] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    z_loss: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _patience_needs_validation(self) -> "TrainingConfig":
        if self.patience is not None and not self.validate_every:
            raise ValueError("patience counts validations; set validate_every too")
        return self

    @model_validator(mode="after")
    def _parts_hold_examples(self) -> "TrainingConfig":
        if (
            self.gradient_accumulation_steps is not None
            and self.gradient_accumulation_steps > self.batch_size
        ):
            raise ValueError(
                f"gradient_accumulation_steps {self.gradient_accumulation_steps}: more "
                f"microbatches than the {self.batch_size} examples of batch_size"
            )
        return self


def compute_dtype(config: TrainingConfig) -> Any:
    """What a step computes in; bfloat16 products are slow on a CPU."""
    if config.compute_dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.compute_dtype)


def choose_num_microbatches(config: TrainingConfig, mesh: Mesh | None) -> int | None:
    """In how many parts a step is computed; None: as a CPU's cache would have it (see Batches)."""
    alone = mesh is None or mesh.size == 1
    if config.gradient_accumulation_steps is None and not (alone and platform_of(mesh) == "cpu"):
        return 1
    return config.gradient_accumulation_steps


def prepare_frozen(frozen: Any, config: TrainingConfig) -> Any:
    """The frozen state in the dtype in which the run holds it."""
    if config.frozen_dtype is None:
        return frozen
    floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if floating(leaf) else leaf, frozen)
