"""The content of a checkpoint, and how Orbax reads and writes it."""

import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp

from adapt_jax.utils.distributed import barrier, from_main, gather, is_main_process

__all__ = [
    "CheckpointFiles",
    "OrbaxFiles",
    "Part",
    "RetentionPolicy",
    "compute_checksum",
    "find_differences",
    "find_inside",
    "list_parts",
    "move_aside",
    "name_leaves",
    "name_part",
    "parse_part",
]

# By part of an array, such as "0:64,32:64", the CRC-32 of its bytes; a part is what a device holds.
Checksums = dict[str, int]
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


class CheckpointFiles(Protocol):
    """The checkpoints of a folder; see OrbaxFiles. All processes call each method."""

    def list_steps(self) -> list[int]: ...
    def start_writing(
        self, step: int, named: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> None: ...
    def wait(self) -> None: ...
    def close(self) -> None: ...
    def read_extra(self, step: int) -> dict[str, Any]: ...
    def read_state(self, step: int, template: Any) -> Any: ...
    def read_shapes(self, step: int) -> dict[str, tuple[int, ...]]: ...
    def remove_unfinished(self) -> None: ...
    def put_aside(self, step: int) -> None: ...


class OrbaxFiles:
    """The checkpoints of a folder, which Orbax writes.

    Each holds the arrays of a state, and a JSON-able dictionary.
    """

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
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                create=True,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=on_written),
            ),
            handler_registry=registry,
        )

    def list_steps(self) -> list[int]:
        """The steps of the checkpoints, also of one that is being written."""
        return list(self._manager.all_steps())

    def start_writing(self, step: int, named: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Begins to write a checkpoint, with checksums of its arrays.

        Raises:
            OSError: it does not fit the disk.
        """
        needed = sum(leaf.nbytes for leaf in named.values())
        free = from_main("free bytes", shutil.disk_usage(self._folder).free)
        if needed > free:
            raise OSError(f"no space left: {needed:,} bytes are needed, {free:,} are free")
        checksums: dict[str, Checksums] = {}
        for own in gather(
            "checksums", {name: _compute_checksums(leaf) for name, leaf in named.items()}
        ):
            for name, found in own.items():
                checksums.setdefault(name, {}).update(found)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(named),
            extra=ocp.args.JsonSave({**extra, "checksums": checksums}),
        )
        self._manager.save(step, args=arguments)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            Exception: whatever kept Orbax from writing.
        """
        self._manager.wait_until_finished()

    def close(self) -> None:
        """The last call, after ``wait``."""
        self._manager.close()

    def read_extra(self, step: int) -> dict[str, Any]:
        """The dictionary of a checkpoint."""
        arguments = ocp.args.Composite(extra=ocp.args.JsonRestore())
        extra: dict[str, Any] = self._manager.restore(step, args=arguments).extra
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
        found = self._manager.restore(step, args=arguments)
        for name, leaf in found.state.items():
            if not _is_intact(leaf, found.extra["checksums"].get(name)):
                raise ValueError(f"{name} is not what was written")
        leaves = [found.state[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def read_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a checkpoint."""
        saved = self._manager.item_metadata(step).state
        return {name: tuple(leaf.shape) for name, leaf in saved.items()}

    def remove_unfinished(self) -> None:
        """Removes what a checkpoint that could not be written has left."""
        if is_main_process():
            for entry in self._folder.glob("*tmp*"):
                shutil.rmtree(entry, ignore_errors=True)
        self._manager.reload()

    def put_aside(self, step: int) -> None:
        """Moves a damaged checkpoint into the folder ``unreadable``."""
        move_aside(self._folder, step)
        self._manager.reload()


def move_aside(folder: Path, step: int) -> None:
    """Process 0 moves the folder of a checkpoint into ``unreadable``, beside the others."""
    aside = folder.parent / "unreadable" / str(step)
    if is_main_process():
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        (folder / str(step)).rename(aside)
    barrier("put aside")


def find_differences(
    files: CheckpointFiles,
    step: int,
    extra: Mapping[str, Any],
    template: Any,
    run: Mapping[str, Any] | None,
) -> list[str]:
    """How a checkpoint differs from this run, a phrase each: in settings, or else in shapes."""
    if run is not None:
        differing = _describe_differences(extra.get("run") or {}, run)
        if differing:  # then the shapes differ too, as a consequence
            return differing
    here = {name: tuple(leaf.shape) for name, leaf in name_leaves(template).items()}
    return _describe_differences(files.read_shapes(step), here)


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


def _compute_checksums(leaf: jax.Array) -> Checksums:
    """Of every part that this process can see; of a whole array where it sees all of it."""
    return {name_part(part): compute_checksum(content) for part, content in list_parts(leaf)}


def _is_intact(leaf: jax.Array, checksums: Checksums | None) -> bool:
    """Whether what was read is what was written, perhaps by other processes in other parts.

    What lies in parts that several processes share is not looked at.
    """
    if checksums is None:
        return False
    for part, content in list_parts(leaf):
        for name, checksum in checksums.items():
            inside = find_inside(parse_part(name), part)
            if inside is not None and compute_checksum(content[inside]) != checksum:
                return False
    return True


Part = tuple[slice, ...]  # a slice with both ends for each axis


def list_parts(leaf: jax.Array) -> list[tuple[Part, np.ndarray]]:
    """The parts of an array that this process sees, and what is in them."""
    if leaf.is_fully_addressable:
        return [(tuple(slice(0, size) for size in leaf.shape), jax.device_get(leaf))]
    found: dict[str, tuple[Part, np.ndarray]] = {}
    for shard in leaf.addressable_shards:
        bounds = zip(shard.index, leaf.shape, strict=True)
        part = tuple(slice(*one.indices(size)[:2]) for one, size in bounds)
        if name_part(part) not in found:
            found[name_part(part)] = part, np.asarray(shard.data)
    return list(found.values())


def name_part(part: Part) -> str:
    return ",".join(f"{one.start}:{one.stop}" for one in part)


def parse_part(name: str) -> Part:
    bounds = [one.split(":") for one in name.split(",") if one]
    return tuple(slice(int(start), int(stop)) for start, stop in bounds)


def find_inside(part: Part, other: Part) -> Part | None:
    """The slices of another part that hold this one; None where it is not inside."""
    pairs = list(zip(part, other, strict=True))
    if not all(out.start <= own.start and own.stop <= out.stop for own, out in pairs):
        return None
    return tuple(slice(own.start - out.start, own.stop - out.start) for own, out in pairs)


def compute_checksum(content: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(content).view(np.uint8).data)
