"""Checkpoints of a training run: what changes from step to step, never frozen weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from adapt_jax.errors import UserError


class Checkpoints:
    """The newest checkpoints of one run in ``folder``; written in the background (Orbax)."""

    def __init__(self, folder: Path, keep: int = 2):
        """Opens ``folder / "checkpoints"``, made if it is not there; older than ``keep`` go."""
        self.folder = Path(folder).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "extra": ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Saves a pytree of arrays and a JSON-able dict; a step that is there is left as it is."""
        if step in self._manager.all_steps():
            return
        copied = {name: jnp.copy(leaf) for name, leaf in _named(state).items()}
        self._manager.save(  # of a copy: the caller may donate the state before it is written
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(copied), extra=ocp.args.JsonSave(extra)
            ),
        )

    def restore(self, state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint as (step, state, extra), or None when there is none.

        Args:
            state: the template; each leaf comes back with its shape, dtype and sharding.

        Raises:
            UserError: when the checkpoint is of another run (other leaves or shapes).
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        wanted, saved = _named(state), self._manager.item_metadata(step).state
        there = {name: tuple(leaf.shape) for name, leaf in saved.items()}
        for name in sorted(there.keys() | wanted.keys()):
            here = tuple(wanted[name].shape) if name in wanted else None
            if here != there.get(name):
                raise UserError(
                    f"{self.folder}: step {step} is a checkpoint of another run ({name}: "
                    f"{there.get(name)} there, {here} here); choose an empty folder"
                )
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(
                    jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
                ),
                extra=ocp.args.JsonRestore(),
            ),
        )
        leaves = [found.state[name] for name in wanted]
        return step, jax.tree.unflatten(jax.tree.structure(state), leaves), found.extra

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _named(state: Any) -> dict[str, Any]:
    """The leaves by their paths, in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
