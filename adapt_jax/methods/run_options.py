"""Options that the caller of ``Method.adapt`` chooses, the same for every method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from adapt_jax.training.trainer import OnStep

__all__ = ["DEFAULT_RUN", "RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """Options that the caller of ``Method.adapt`` chooses, the same for every method.

    Attributes:
        seed: of demonstrations, initialisation and the order of the examples.
        folder: where a training writes metrics and checkpoints; an interrupted one continues.
        mesh: the devices that the training runs on.
        on_step: called after every training step.
        run_metadata: settings that are part of a training's identity, as plain JSON; a checkpoint
            of other settings is refused.
        max_concurrent_sequences: decoded at the same time where development questions are
            answered; None takes what memory allows.
    """

    seed: int = 0
    folder: Path | None = None
    mesh: Mesh | None = None
    on_step: OnStep | None = None
    run_metadata: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent_sequences: int | None = None


DEFAULT_RUN = RunOptions()
