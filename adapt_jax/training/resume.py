"""How a run is saved, recognised, and continued from a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapt_jax.training.checkpoints import Checkpoints
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.run import TrainingData, TrainingRun
from adapt_jax.training.validation import BestStep
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.interruption import agree_to_stop, listen_for_stop

__all__ = ["Saver", "describe_run"]

RUN_VERSION = 1  # raised when ``describe_run`` changes; checkpoints of others are refused


def describe_run(
    run: TrainingRun, data: TrainingData, seed: int, run_metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All that must be the same for a run to continue from a checkpoint, as flat plain JSON.

    Settings are written there as they are, so that a refusal can name them; examples and weights
    are hashed. To be called before the first step, which consumes the weights.
    """
    settings = {
        **(run_metadata or {}),
        "training": run.config.model_dump(exclude=set(run.config.no_effect)),
        "seed": seed,
    }
    return {
        "version": RUN_VERSION,
        **_flatten(json.loads(json.dumps(settings))),
        "examples": f"{len(data.examples)} ({_hash_examples(data)})",
        "weights": _hash_weights((run.state.trainable, run.loaded)),
    }


def _flatten(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        inner = _flatten(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
        result |= inner
    return result


def _hash_examples(data: TrainingData) -> str:
    """Of all examples of a list, or of the first one of a source that makes them as they come."""
    examples: Sequence[TrainingExample] = data.examples
    if not isinstance(examples, list):
        examples = [examples[0]] if len(examples) else []
    return identity(
        {
            "prompt_prefix": list(data.prompt_prefix),
            "id": [example.id for example in examples],
            "target_start": [example.target_start for example in examples],
            "num_tokens": [len(example.tokens) for example in examples],
            "tokens": _join([example.tokens for example in examples], np.int32),
            "num_weights": [len(example.weights) for example in examples],
            "weights": _join([example.weights for example in examples], np.float32),
        }
    )


def _join(parts: Sequence[Sequence[float]], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(part, dtype) for part in parts)])


def _hash_weights(tree: Any) -> str:
    """Of names, shapes, and each array's lowest and highest number.

    These are quick to find, and the same on any number of devices, which a sum is not.
    """
    return identity(
        [
            [
                jax.tree_util.keystr(path, simple=True, separator="."),
                list(leaf.shape),
                float(leaf.min()),
                float(leaf.max()),
            ]
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            if leaf.size
        ]
    )


class Saver:
    """Saves a run into a folder, and continues it from there. To be used in a ``with`` statement.

    Attributes:
        folder: holds ``checkpoints``; nobody else trains there meanwhile.
    """

    def __init__(self, run: TrainingRun, folder: Path, description: Mapping[str, Any], seed: int):
        """``description`` is that of the run before its first step (see ``describe_run``)."""
        self._run, self.folder, self._description, self._seed = run, folder, description, seed
        self._stack = ExitStack()

    def __enter__(self) -> "Saver":
        """Takes the run to the newest checkpoint, where there is one.

        Raises:
            UserError: the checkpoint is of another run, or another process trains there.
        """
        config = self._run.config
        with ExitStack() as stack:
            checkpoints = Checkpoints(
                self.folder, every=config.checkpoint_every, keep=config.keep_checkpoints
            )
            self._checkpoints = stack.enter_context(checkpoints)
            self._requested = stack.enter_context(listen_for_stop())
            self._resume()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._stack.__exit__(*problem)

    def _resume(self) -> None:
        run, found = self._run, self._checkpoints.restore(self._run.state, self._description)
        if found is None:
            return
        run.steps_done, run.state = found.step, found.state
        run.batches.set_state(found.extra["data"])
        run.best = BestStep(**found.extra["validation"])
        if run.best.step is not None:
            best = run.state if found.best is None else found.best
            run.best_weights = jax.tree.map(jnp.copy, best.trainable)

    def is_due(self, step: int) -> bool:
        """Whether the schedule asks for a checkpoint after this step."""
        return self._checkpoints.is_due(step)

    def stop_requested(self) -> str | None:
        """The signal that asks to stop after this step, if any. Asked after every step."""
        return agree_to_stop(self._requested)

    def save(self) -> None:
        """Saves everything that the next step depends on.

        Raises:
            UserError: weights are not finite: their checkpoint would replace a good one; or the
                checkpoint cannot be written.
        """
        run = self._run
        weights = jax.tree.leaves(run.state.trainable)
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in weights):
            raise UserError(
                f"after step {run.steps_done} some trained weights are not finite; the checkpoint "
                "before it is kept; try a lower learning rate"
            )
        extra = {
            "data": run.batches.get_state(),
            "run": dict(self._description),
            "seed": self._seed,
            "best": run.best.step,
            "validation": run.best.to_dict(),
        }
        self._checkpoints.save(run.steps_done, run.state, extra)
