"""Checkpoints of a training run: what changes from step to step, never frozen weights."""

import fcntl
import logging
import os
import shutil
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from adapt_jax.utils.cpu import trim_memory
from adapt_jax.utils.errors import UserError

log = logging.getLogger("adapt_jax")

MULTIHOST_INTERVAL = (
    100  # steps between checkpoints where several processes train and no schedule is given
)
MAX_COPY_BYTES = (
    1 << 26
)  # bytes of a state up to which a CPU copies it rather than wait for the file
MAX_OVERHEAD = (
    0.02  # of the time, at most, goes into checkpoints whose schedule is left to the clock
)


@dataclass(frozen=True)
class Restored:
    """A checkpoint: what stood after ``step`` steps, and the state of the best step until then."""

    step: int
    state: Any
    extra: dict[str, Any]
    best: Any = None


@dataclass
class Kept:
    """Which checkpoints stay (Orbax asks): the newest, and the best step that each names."""

    newest: int
    best_of: dict[int, int]

    def should_preserve(self, checkpoints: Any, *, context: Any = None) -> list[bool]:
        """One answer per checkpoint, in the order given (by step)."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = steps[-self.newest :]
        best = {self.best_of[step] for step in newest if step in self.best_of}
        return [step in newest or step in best for step in steps]


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
            every: a checkpoint is ``due`` every so many steps; not given, as often as it takes no
                more than SHARE of the time.
            keep: so many of the newest stay, and the best ones that they name.

        Raises:
            UserError: when another process has the folder open.
        """
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax meets is told by us
        self._hook, sys.excepthook = sys.excepthook, self._except_closed_loops
        root = Path(folder).absolute()
        root.mkdir(parents=True, exist_ok=True)
        self.folder, self.every = root / "checkpoints", every
        self._lock = _lock(root / ".lock") if jax.process_index() == 0 else None  # for all
        self._kept = Kept(keep, {})
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                create=True,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._written),
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "extra": ocp.JsonCheckpointHandler(),
            },
        )
        self._began, self._cost, self._writing = 0.0, 0.0, False  # the first one is due at once

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def due(self, step: int) -> bool:
        """Is it time to save? Whether one is saved or not changes nothing in the training."""
        every = self.every
        if every is None and jax.process_count() > 1:
            every = MULTIHOST_INTERVAL  # clocks differ, and all processes must save the same step
        if every is not None:
            return every > 0 and step % every == 0
        return not self._writing and time.monotonic() - self._began >= self._cost / MAX_OVERHEAD

    def save(
        self, step: int, state: Any, extra: Mapping[str, Any], best: int | None = None
    ) -> None:
        """Saves a pytree of arrays and a JSON-able dict; a step that is there is left as it is.

        The arrays may be donated as soon as this returns.

        Args:
            best: an earlier step (or this one) whose checkpoint must stay as long as this one does.

        Raises:
            UserError: when this or the one before could not be written, such as on a full disk.
        """
        if step in self._manager.all_steps():
            return
        self._began, self._writing = time.monotonic(), True
        named = _named(state)
        needed = sum(leaf.nbytes for leaf in named.values() if leaf.is_fully_addressable)
        if needed > (free := shutil.disk_usage(self.folder).free):
            problem = OSError(f"no space left: {needed:,} bytes are needed, {free:,} are free")
            raise self._not_written(problem)
        extra = {**extra, "checksums": _checksums(named)}
        # On a CPU the file is written from the very memory that the caller may overwrite.
        on_cpu = jax.default_backend() == "cpu"
        named = jax.tree.map(jnp.copy, named) if on_cpu and needed <= MAX_COPY_BYTES else named
        self._kept.best_of[step] = extra.get("best") or step
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(named), extra=ocp.args.JsonSave(extra)
        )
        try:
            self._manager.save(step, args=arguments)
            if on_cpu and needed > MAX_COPY_BYTES:
                self._manager.wait_until_finished()
                trim_memory()
        except Exception as problem:
            raise self._not_written(problem) from problem

    def restore(self, state: Any, run: Mapping[str, Any] | None = None) -> Restored | None:
        """The newest checkpoint that can be read, or None when there is none.

        One that is damaged is told, put aside in ``unreadable``, and the one before is taken.

        Args:
            state: the template; each leaf comes back with its shape, dtype and sharding.
            run: what the run is; compared with what the checkpoint's ``extra["run"]`` says.

        Raises:
            UserError: when the checkpoint is of another run; every field that differs is named.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                extra = self._extra(step)
                differing = self._differing(step, extra, _named(state), run)
                if not differing:
                    best = extra.get("best")
                    better = None if best in (None, step) else self._state(best, state)
                    found = Restored(step, self._state(step, state), extra, better)
            except Exception as problem:  # whatever the damage leads Orbax or tensorstore to
                self._put_aside(step, problem)
                continue
            if differing:
                raise UserError(
                    f"{self.folder} holds a checkpoint of another run: {'; '.join(differing)}; "
                    "go on with the same settings, or choose an empty folder"
                )
            self._kept.best_of[step] = best or step
            self._began = time.monotonic()
            return found
        return None

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: when the last checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as problem:
            raise self._not_written(problem) from problem
        finally:
            if self._lock is not None:
                os.close(self._lock)
            sys.excepthook = self._hook

    def _except_closed_loops(self, kind: Any, problem: Any, trace: Any) -> None:
        """After a failed write tensorstore's threads complain, each alone, of a closed loop."""
        if "Event loop is closed" not in str(problem):
            self._hook(kind, problem, trace)

    def _written(self) -> None:
        """Orbax calls it, in a thread of its own, when a checkpoint is complete."""
        seconds = time.monotonic() - self._began
        self._cost = min(self._cost or seconds, seconds)  # the first one also warms up
        self._writing = False

    def _extra(self, step: int) -> dict[str, Any]:
        arguments = ocp.args.Composite(extra=ocp.args.JsonRestore())
        return self._manager.restore(step, args=arguments).extra

    def _state(self, step: int, state: Any) -> Any:
        """The arrays of a checkpoint, as the template has them.

        Raises:
            ValueError: when one is not what was saved.
        """
        wanted = _named(state)
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), extra=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=arguments)
        checksums = found.extra["checksums"]
        for name, checksum in _checksums(found.state).items():
            if checksums[name] != checksum:
                raise ValueError(f"{name} is not what was written")
        leaves = [found.state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def _differing(
        self, step: int, extra: dict[str, Any], wanted: dict[str, Any], run: Any
    ) -> list[str]:
        """What the checkpoint says otherwise than this run, a phrase for each field."""
        there, here = extra.get("run") or {}, run or {}
        differing = [
            f"{key} is {there.get(key)} there, {here.get(key)} here"
            for key in sorted(there.keys() | here.keys())
            if run is not None and there.get(key) != here.get(key)
        ]
        if differing:  # then the shapes differ too, as a consequence
            return differing
        saved = self._manager.item_metadata(step).state
        shapes = {name: tuple(leaf.shape) for name, leaf in saved.items()}
        ours = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
        moved = [name for name in sorted(shapes | ours) if shapes.get(name) != ours.get(name)]
        differing += [
            f"{name} is {shapes.get(name, 'not')} there, {ours.get(name, 'not')} here"
            for name in moved[:3]
        ]
        return differing + [f"{len(moved) - 3} more shapes differ"] * (len(moved) > 3)

    def _put_aside(self, step: int, problem: Exception) -> None:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        aside = self.folder.parent / "unreadable" / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(aside)
        self._manager.reload()
        before = max((s for s in self._manager.all_steps() if s < step), default=0)
        log.warning(
            "%s: the checkpoint of step %d is damaged (%.200s); going on from %s",
            self.folder,
            step,
            reason,
            f"step {before}" if before else "the beginning",
        )

    def _not_written(self, problem: Exception) -> UserError:
        """The mistake to raise for what kept Orbax from writing; half-written folders go."""
        for entry in self.folder.glob("*tmp*"):
            shutil.rmtree(entry, ignore_errors=True)
        self._manager.reload()
        last = self._manager.latest_step()
        reason = next((line for line in str(problem).splitlines() if line.strip()), repr(problem))
        if "No space left" in str(problem):
            reason = "no space left on the device"
        kept = f"the one of step {last} is kept" if last is not None else "there is none before"
        return UserError(f"{self.folder}: a checkpoint could not be written ({reason}); {kept}")


def _named(state: Any) -> dict[str, Any]:
    """The leaves by their paths, in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _checksums(named: Mapping[str, Any]) -> dict[str, int]:
    """CRC-32 of every leaf that this process can see whole."""
    return {
        name: zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).view(np.uint8).data)
        for name, leaf in named.items()
        if leaf.is_fully_addressable
    }


def _lock(path: Path) -> int:
    """Holds the file until this process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{path.parent}: another process is training there") from None
    except OSError:  # a file system that knows no locks
        pass
    return descriptor
