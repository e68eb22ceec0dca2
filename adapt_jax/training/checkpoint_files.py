"""The content of a checkpoint, and how Orbax reads and writes it."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

__all__ = ["CheckpointFiles", "RetentionPolicy", "name_leaves"]

MAX_NAMED = 5  # differences in a message
MAX_SHOWN = 60  # characters of a value in a message


@dataclass
class RetentionPolicy:
    """Which checkpoints stay (Orbax asks): the newest, and the best step that each of them names.

    Attributes:
        num_newest: how many of the newest stay.
        best_of: by step, the best step until then.
    """

    num_newest: int
    best_of: dict[int, int]

    def should_preserve(self, checkpoints: Any, *, context: Any = None) -> list[bool]:
        """One answer per checkpoint, in the order given (by step)."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = steps[-self.num_newest :]
        best = {self.best_of[step] for step in newest if step in self.best_of}
        return [step in newest or step in best for step in steps]


class CheckpointFiles:
    """The checkpoints of a folder: each holds the arrays of a state, and a JSON-able dictionary."""

    def __init__(self, folder: Path, policy: RetentionPolicy, on_written: Callable[[], None]):
        """``on_written`` is called, in a thread of its own, when a checkpoint is complete."""
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        state, extra = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler()
        for name, arguments, handler in (
            ("state", ocp.args.StandardSave, state),
            ("state", ocp.args.StandardRestore, state),
            ("extra", ocp.args.JsonSave, extra),
            ("extra", ocp.args.JsonRestore, extra),
        ):
            registry.add(name, arguments, handler)
        self.manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                create=True,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=on_written),
            ),
            handler_registry=registry,
        )

    def start_writing(self, step: int, named: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Begins to write a checkpoint, with checksums of its arrays."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(named),
            extra=ocp.args.JsonSave({**extra, "checksums": _compute_checksums(named)}),
        )
        self.manager.save(step, args=arguments)

    def read_extra(self, step: int) -> dict[str, Any]:
        """The dictionary of a checkpoint."""
        arguments = ocp.args.Composite(extra=ocp.args.JsonRestore())
        extra: dict[str, Any] = self.manager.restore(step, args=arguments).extra
        return extra

    def read_state(self, step: int, template: Any) -> Any:
        """The arrays of a checkpoint, with the tree, dtypes and shardings of the template.

        Raises:
            ValueError: when one is not what was saved.
        """
        wanted = name_leaves(template)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), extra=ocp.args.JsonRestore()
        )
        found = self.manager.restore(step, args=arguments)
        checksums = found.extra["checksums"]
        for name, checksum in _compute_checksums(found.state).items():
            if checksums[name] != checksum:
                raise ValueError(f"{name} is not what was written")
        leaves = [found.state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def find_differences(
        self, step: int, extra: Mapping[str, Any], template: Any, run: Mapping[str, Any] | None
    ) -> list[str]:
        """In what a checkpoint is of another run, or of other shapes; a phrase for each."""
        if run is not None:
            differing = _describe_differences(extra.get("run") or {}, run)
            if differing:  # then the shapes differ too, as a consequence
                return differing
        saved = self.manager.item_metadata(step).state
        there = {name: tuple(leaf.shape) for name, leaf in saved.items()}
        here = {name: tuple(leaf.shape) for name, leaf in name_leaves(template).items()}
        return _describe_differences(there, here)


def _describe_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A phrase for each value that differs, the first MAX_NAMED of them."""
    names = [
        name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)
    ]
    phrases = [
        f"{name} is {_shorten(there.get(name))} there, {_shorten(here.get(name))} here"
        for name in names[:MAX_NAMED]
    ]
    return phrases + [f"{len(names) - MAX_NAMED} more differ"] * (len(names) > MAX_NAMED)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def name_leaves(state: Any) -> dict[str, Any]:
    """The leaves by their paths, in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _compute_checksums(named: Mapping[str, Any]) -> dict[str, int]:
    """CRC-32 of every leaf that this process can see whole."""
    return {
        name: zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).view(np.uint8).data)
        for name, leaf in named.items()
        if leaf.is_fully_addressable
    }
