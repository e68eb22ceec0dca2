"""Checkpoints of a training run: what changes from step to step, never frozen weights."""

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from adapt_jax.training.checkpoint_files import (
    CheckpointFiles,
    OrbaxFiles,
    RetentionPolicy,
    find_differences,
    name_leaves,
)
from adapt_jax.utils import agreement, distributed
from adapt_jax.utils.bucket_mirror import find_mirror
from adapt_jax.utils.cpu import MAX_CHECKPOINT_COPY_BYTES, trim_memory
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_folder

__all__ = ["Checkpoints", "Restored"]

log = logging.getLogger("adapt_jax")

# Steps between checkpoints where several processes train and no schedule is given: their clocks
# differ, and all of them must save the same step.
MULTIHOST_INTERVAL = 100
# The share of the time, at most, that goes into checkpoints whose schedule is left to the clock.
MAX_OVERHEAD = 0.02


@dataclass(frozen=True)
class Restored:
    """A checkpoint: the state after ``step`` steps, and that of the best step until then."""

    step: int
    state: Any
    extra: dict[str, Any]
    best: Any = None


class Checkpoints:
    """The checkpoints of one run in ``folder``: the newest and the best; written by Orbax.

    A checkpoint is written in the background, beside the training (on a CPU a large one is waited
    for: a copy would double what is held), and appears whole or not at all. While it is open nobody
    else may open the folder. To be used in a ``with`` statement, whose end waits until everything
    is written.
    """

    def __init__(self, folder: Path, *, every: int | None = None, keep: int = 2):
        """Opens ``folder / "checkpoints"``, made if it is not there.

        Args:
            every: a checkpoint is due every N steps; by default as often as it takes no more
                than MAX_OVERHEAD of the time.
            keep: how many of the newest stay, and the best ones that they name.

        Raises:
            UserError: when another process has the folder open.
        """
        root = Path(folder).absolute()
        root.mkdir(parents=True, exist_ok=True)
        self.folder, self.every = root / "checkpoints", every
        self._policy = RetentionPolicy(keep, {})
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax's mistakes are reported here
        with ExitStack() as stack:
            # process 0 holds the folder for all
            stack.enter_context(agreement.on_main("training folder", lambda: lock_folder(root)))
            self.address, self._files = self._open_files(root)
            self._stack = stack.pop_all()
        self._hook, sys.excepthook = sys.excepthook, self._hide_closed_loops
        # When the last checkpoint began, and what one costs: the first one is due at once.
        self._began, self._cost, self._is_writing = 0.0, 0.0, False

    def _open_files(self, root: Path) -> tuple[Path, CheckpointFiles]:
        """Where they are for the user, and what writes and reads them."""
        one = find_mirror(root)
        if one is None:
            return self.folder, OrbaxFiles(self.folder, self._policy, self._finish_writing)
        from adapt_jax.training.bucket_checkpoints import BucketFiles

        address = one.address / self.folder.relative_to(one.local)
        return address, BucketFiles(self.folder, one, self._policy, self._finish_writing)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def is_due(self, step: int) -> bool:
        """Whether it is time to save. Whether one is saved changes nothing in the training."""
        every = self.every
        if every is None and distributed.num_processes() > 1:
            every = MULTIHOST_INTERVAL
        if every is not None:
            return every > 0 and step % every == 0
        return not self._is_writing and time.monotonic() - self._began >= self._cost / MAX_OVERHEAD

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Saves a pytree of arrays and a JSON-able dict; a step that is there is left as it is.

        The arrays may be donated as soon as this returns. Where ``extra`` names an earlier step (or
        this one) as "best", its checkpoint stays as long as this one does.

        Raises:
            UserError: when this or the one before could not be written, such as on a full disk.
        """
        if step in self._files.list_steps():
            return
        self._began, self._is_writing = time.monotonic(), True
        named = name_leaves(state)
        # On a CPU the file is written from the very memory that the caller may overwrite.
        on_cpu = jax.default_backend() == "cpu"
        is_small = sum(leaf.nbytes for leaf in named.values()) <= MAX_CHECKPOINT_COPY_BYTES
        if on_cpu and is_small:
            named = jax.tree.map(jnp.copy, named)
        self._policy.best_of[step] = extra.get("best") or step
        try:
            self._files.start_writing(step, named, extra)
            if on_cpu and not is_small:
                self._files.wait()
                trim_memory()
        except Exception as problem:
            raise self._remove_half_written(problem) from problem

    def restore(self, state: Any, run: Mapping[str, Any] | None = None) -> Restored | None:
        """The newest checkpoint that can be read, or None when there is none.

        One that is damaged is reported, put aside in ``unreadable``, and the one before is taken.

        Args:
            state: the template; each leaf comes back with its shape, dtype and sharding.
            run: what the run is; compared with the checkpoint's ``extra["run"]``.

        Raises:
            UserError: when the checkpoint is of another run; the fields that differ are named.
        """
        for step in sorted(self._files.list_steps(), reverse=True):
            differing, found, damage = [], None, None
            try:
                extra = self._files.read_extra(step)
                differing = find_differences(self._files, step, extra, state, run)
                if not differing:
                    best = extra.get("best")
                    best_state = None
                    if best is not None and best != step:
                        best_state = self._files.read_state(best, state)
                    found = Restored(step, self._files.read_state(step, state), extra, best_state)
            except UserError:  # the bucket cannot be reached, which is no damage
                raise
            except Exception as problem:  # whatever the damage leads Orbax or tensorstore to
                damage = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            # what one process cannot read, none of them takes
            damages = filter(None, distributed.gather(f"checkpoint {step}", damage))
            if (damage := next(damages, None)) is not None:
                self._put_aside(step, damage)
                continue
            if differing:
                raise UserError(
                    f"{self.address} holds a checkpoint of another run: {'; '.join(differing)}; "
                    "go on with the same settings, or choose an empty folder"
                )
            assert found is not None
            self._policy.best_of[step] = best or step
            self._began = time.monotonic()
            return found
        return None

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: when the last checkpoint could not be written.
        """
        try:
            self._files.wait()
            self._files.close()
        except Exception as problem:
            raise self._remove_half_written(problem) from problem
        finally:
            self._stack.close()
            sys.excepthook = self._hook

    def _hide_closed_loops(self, kind: Any, problem: Any, trace: Any) -> None:
        """After a failed write each of tensorstore's threads complains of a closed event loop."""
        if "Event loop is closed" not in str(problem):
            self._hook(kind, problem, trace)

    def _finish_writing(self) -> None:
        """Orbax calls it, in a thread of its own, when a checkpoint is complete."""
        seconds = time.monotonic() - self._began
        self._cost = min(self._cost or seconds, seconds)  # the first one also warms up
        self._is_writing = False

    def _put_aside(self, step: int, reason: str) -> None:
        """Moves a damaged checkpoint out of the way, and says so."""
        self._files.put_aside(step)
        before = max((s for s in self._files.list_steps() if s < step), default=0)
        log.warning(
            "%s: the checkpoint of step %d is damaged (%.200s); going on from %s",
            self.address,
            step,
            reason,
            f"step {before}" if before else "the beginning",
        )

    def _remove_half_written(self, problem: Exception) -> UserError:
        """Removes half-written folders; the mistake to raise for what kept Orbax from writing."""
        self._files.remove_unfinished()
        last = max(self._files.list_steps(), default=None)
        reason = next((line for line in str(problem).splitlines() if line.strip()), repr(problem))
        if "No space left" in str(problem):
            reason = "no space left on the device"
        kept = f"the one of step {last} is kept" if last is not None else "there is none before"
        return UserError(f"{self.address}: a checkpoint could not be written ({reason}); {kept}")
