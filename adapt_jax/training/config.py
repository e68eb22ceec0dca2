"""The options of a training run, and what follows from them and from where it runs."""

from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from pydantic import AfterValidator, Field, model_validator

from adapt_jax.decoders.sharding import platform_of
from adapt_jax.training.trackers import TRACKERS
from adapt_jax.utils.config import Strict

__all__ = [
    "MAX_STEPS",
    "TrainingConfig",
    "choose_num_microbatches",
    "compute_dtype",
    "prepare_frozen",
]

MAX_STEPS = 10**9
MAX_BATCH_SIZE = 10**6  # examples of a step
MAX_ROW_LENGTH = 2**24  # tokens; positions stay exact in float32
MAX_RATE = 1e6  # of learning rates and of factors in the loss; beyond it float32 overflows soon
DEFAULT_WARMUP_STEPS, DEFAULT_WARMUP_SHARE = 20, 0.1


def _check_tracker(name: str) -> str:
    if name not in TRACKERS:
        raise ValueError(TRACKERS.describe_unknown(name))
    return name


Steps = Annotated[int, Field(ge=0, le=MAX_STEPS)]
Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]
TrackerName = Annotated[str, AfterValidator(_check_tracker)]


class TrainingConfig(Strict):
    """The options that every training run has, whatever it trains."""

    no_effect: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "keep_checkpoints", "trackers"}
    )

    steps: int = Field(300, gt=0, le=MAX_STEPS, description="updates of the parameters")
    batch_size: int = Field(32, gt=0, le=MAX_BATCH_SIZE, description="examples of a step")
    learning_rate: Rate = Field(
        1e-3,
        gt=0,
        description="the schedule's peak. The 0.3 of the prompt tuning paper belongs to Adafactor "
        "without parameter scaling, on T5 (2104.08691)",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="what follows the warm-up: constant, or down to zero at the last step"
    )
    warmup_steps: Steps | None = Field(
        None,
        description="steps in which the learning rate rises linearly; by default a tenth of the "
        "steps, at most 20",
    )
    optimizer: Literal["adamw", "adafactor", "lion", "sgd"] = "adamw"
    beta2: float = Field(0.99, gt=0, lt=1, description="of AdamW")
    weight_decay: Rate = Field(0.0, description="of matrices; norms and biases have none")
    clip_norm: float = Field(
        1.0, gt=0, le=1e30, description="longer gradients are scaled down to this length"
    )
    packing: Literal["best_fit", "none"] = Field(
        "best_fit",
        description="best_fit: several examples share a row, and attention stays within each. "
        "none: a row for each example, as long as the bucket (64, 128, 256, ... tokens) of the "
        "step's longest one; a step is compiled for each bucket. Steps hold the same examples "
        "either way",
    )
    row_length: int | None = Field(
        None, gt=1, le=MAX_ROW_LENGTH, description="tokens of the longest row"
    )
    checkpoint_every: Steps | None = Field(
        None,
        description="steps between checkpoints, 0: none; by default as often as it takes no more "
        "than 2 % of the time",
    )
    keep_checkpoints: int = Field(
        2, gt=0, le=MAX_STEPS, description="so many of the newest stay, and the best"
    )
    validate_every: Steps = Field(
        0,
        description="steps between two measurements on the development split, 0: none; the "
        "training then yields its best step",
    )
    metric: Literal["loss", "accuracy"] = Field(
        "loss", description="of the development split, which decides the best step"
    )
    patience: int | None = Field(
        None,
        gt=0,
        le=MAX_STEPS,
        description="the training ends after so many validations without a better one",
    )
    trackers: list[TrackerName] = Field(
        [], description="where metrics go besides metrics.jsonl: tensorboard, wandb"
    )
    gradient_accumulation_steps: int | None = Field(
        None,
        gt=0,
        le=MAX_BATCH_SIZE,
        description="microbatches that a step is computed in, one after the other: less memory, "
        "the same gradients. By default 1; on one CPU device as many as have 2,048 tokens or more: "
        "half the memory, and up to a tenth faster",
    )
    remat: Literal["auto", "none", "products", "layers"] = Field(
        "auto",
        description="what the backward pass computes again instead of keeping it: whole layers, "
        "or all but their matrix products. auto: nothing on a CPU, whole layers elsewhere",
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: float32 on a CPU, bfloat16 elsewhere. Trained parameters, their "
        "gradients and the optimizer's state are float32 always",
    )
    frozen_dtype: Literal["bfloat16"] | None = Field(
        None,
        description="bfloat16: frozen weights are held so during the run, in a copy; the "
        "adaptation, and its accuracy in validations, has them as loaded",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="see cross_entropy.Objective")
    z_loss: Rate = Field(0.0, description="see cross_entropy.Objective")

    @property
    def num_warmup_steps(self) -> int:
        """Steps of the warm-up; at least one step of the run follows it."""
        if self.warmup_steps is None:
            return min(DEFAULT_WARMUP_STEPS, int(self.steps * DEFAULT_WARMUP_SHARE))
        return min(self.warmup_steps, self.steps - 1)

    @model_validator(mode="after")
    def _check_together(self) -> "TrainingConfig":
        if self.patience is not None and not self.validate_every:
            raise ValueError("patience counts validations; set validate_every too")
        microbatches = self.gradient_accumulation_steps
        if microbatches is not None and microbatches > self.batch_size:
            raise ValueError(
                f"gradient_accumulation_steps {microbatches}: more microbatches than the "
                f"{self.batch_size} examples of batch_size"
            )
        return self


def compute_dtype(config: TrainingConfig) -> Any:
    """The dtype that a step computes in."""
    if config.compute_dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.compute_dtype)


def choose_num_microbatches(config: TrainingConfig, mesh: Mesh | None) -> int | None:
    """Microbatches of a step; None where a CPU's cache decides, from the examples (see Batches)."""
    one_device = mesh is None or mesh.size == 1
    if config.gradient_accumulation_steps is None and one_device and platform_of(mesh) == "cpu":
        return None
    return config.gradient_accumulation_steps or 1


def prepare_frozen(frozen: Any, config: TrainingConfig) -> Any:
    """The frozen state in the dtype in which the run holds it."""
    if config.frozen_dtype is None:
        return frozen
    floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if floating(leaf) else leaf, frozen)
