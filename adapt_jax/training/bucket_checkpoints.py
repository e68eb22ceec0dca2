"""Checkpoints in a bucket: each process uploads the parts of arrays that it holds.

A checkpoint is the file ``STEP/parts.json`` of the mirror (``utils/bucket_mirror.py``): it says
which bytes of which object hold which part of which array. The objects are uploaded first; then
process 0 writes the file and pushes, so a checkpoint appears whole, together with the log, or not
at all. Any number of processes can go on from it: each reads the parts that its devices need.
"""

import json
import logging
import math
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapt_jax.training.checkpoint_files import (
    Part,
    RetentionPolicy,
    compute_checksum,
    find_inside,
    list_parts,
    move_aside,
    name_leaves,
    name_part,
    parse_part,
)
from adapt_jax.utils.agreement import run_on_main
from adapt_jax.utils.bucket import MAX_DOWNLOADS, file_system, report_bucket_errors, split_address
from adapt_jax.utils.bucket_copy import PART_LIST, PARTS
from adapt_jax.utils.bucket_mirror import OpenMirror
from adapt_jax.utils.distributed import (
    from_main,
    is_main_process,
    num_processes,
    process_index,
    read_notes,
    send_note,
)
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import write_text

__all__ = ["BucketFiles"]

log = logging.getLogger("adapt_jax")

BLOCK_BYTES = 64 * 2**20  # of an upload, and at most of a download
FORMAT = 1  # of parts.json

# by array and part: number of the object, first byte, bytes, CRC-32
Place = tuple[int, int, int, int]


class BucketFiles:
    """The checkpoints of a folder in a mirror. See CheckpointFiles."""

    def __init__(
        self,
        folder: Path,
        mirror: OpenMirror,
        policy: RetentionPolicy,
        on_written: Callable[[], None],
    ):
        """``on_written`` is called, in a thread of its own, when a checkpoint is complete.

        Raises:
            UserError: the folder holds checkpoints of an earlier version.
        """
        self._folder, self._mirror, self._policy = folder, mirror, policy
        self._inner = folder.relative_to(mirror.local)
        self._root = split_address(mirror.address)
        self._on_written = on_written
        self._content: dict[int, dict[str, Any]] = {}  # of parts.json, by step
        self._writer: threading.Thread | None = None
        self._problem: Exception | None = None
        self._steps: list[int] = run_on_main("checkpoints", self._find_steps)

    def _find_steps(self) -> list[int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        steps = []
        for one in (one for one in self._folder.iterdir() if one.name.isdigit()):
            if (one / PART_LIST).is_file():
                steps.append(int(one.name))
            elif any(one.iterdir()):
                where = self._mirror.address / self._inner / one.name
                raise UserError(f"{where}: written by an earlier version; choose another folder")
        return sorted(steps)

    def list_steps(self) -> list[int]:
        """The steps of the checkpoints, also of one that is being written."""
        return list(self._steps)

    # Writing

    def start_writing(self, step: int, named: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Begins to upload a checkpoint, in a thread."""
        self.wait()
        own = [(name, part, np.asarray(found)) for name, part, found in _list_own_parts(named)]
        arrays = {
            name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "parts": {}}
            for name, leaf in named.items()
        }
        token = from_main("checkpoint", secrets.token_hex(4))
        objects = [
            f"{PARTS}/{self._inner.as_posix()}/{step}/{token}-{index}"
            for index in range(num_processes())
        ]
        content = {"format": FORMAT, "objects": objects, "arrays": arrays, "extra": dict(extra)}
        removed = self._add_step(step)

        def work() -> None:
            try:
                self._write(step, token, content, own, removed)
                self._on_written()
            except Exception as problem:
                self._problem = problem

        self._writer = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._writer.start()

    def _add_step(self, step: int) -> list[int]:
        """Takes the step in; gives those that need not be kept when it is complete."""
        steps = sorted({*self._steps, step})
        keeps = self._policy.should_preserve([_Step(one) for one in steps])
        self._steps = [one for one, is_kept in zip(steps, keeps, strict=True) if is_kept]
        return [one for one in steps if one not in self._steps]

    def _write(
        self,
        step: int,
        token: str,
        content: Mapping[str, Any],
        own: list[tuple[str, str, np.ndarray]],
        removed: Iterable[int],
    ) -> None:
        """Uploads what this process holds; process 0 then waits for the others and pushes."""
        topic = f"checkpoint {token}"
        place = f"{self._root}/{content['objects'][process_index()]}"
        if not is_main_process():
            self._upload(place, [part for _, _, part in own])
            send_note(topic, _place(own))  # where its parts are
            return
        noted: queue.Queue[Any] = queue.Queue()
        noted.put(_place(own))
        with read_notes(topic, noted.put):
            self._upload(place, [part for _, _, part in own])
            for _ in range(num_processes()):
                for name, parts in noted.get().items():
                    content["arrays"][name]["parts"].update(parts)
        write_text(self._folder / str(step) / PART_LIST, json.dumps(content))
        try:
            self._mirror.push()
        except UserError:
            shutil.rmtree(self._folder / str(step), ignore_errors=True)
            raise
        for old in removed:  # with the next push
            shutil.rmtree(self._folder / str(old), ignore_errors=True)

    def _upload(self, place: str, parts: Iterable[np.ndarray]) -> None:
        with report_bucket_errors(f"gs://{place}", "written"):
            if sum(part.nbytes for part in parts) <= BLOCK_BYTES:
                content = b"".join(_to_bytes(part) for part in parts)
                file_system().pipe_file(place, content)
                return
            with file_system().open(place, "wb", block_size=BLOCK_BYTES) as out:
                for part in map(_to_bytes, parts):
                    for start in range(0, len(part), BLOCK_BYTES):
                        out.write(part[start : start + BLOCK_BYTES])

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: the bucket could not be written.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def close(self) -> None:
        """The last call, after ``wait``."""

    def remove_unfinished(self) -> None:
        """Forgets a checkpoint that could not be written; its objects go with the next pull."""
        if is_main_process():
            self._steps = self._find_steps()

    def put_aside(self, step: int) -> None:
        """Moves a damaged checkpoint into the folder ``unreadable``."""
        move_aside(self._folder, step)
        self._steps.remove(step)

    # Reading

    def _read(self, step: int) -> dict[str, Any]:
        """The content of parts.json, in all processes.

        Raises:
            ValueError: it is damaged.
        """
        if step not in self._content:

            def read() -> Any:
                try:
                    return json.loads((self._folder / str(step) / PART_LIST).read_bytes())
                except (OSError, ValueError) as problem:
                    return f"{PART_LIST}: {problem}"

            content = run_on_main("parts", read)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"{content:.200}" if isinstance(content, str) else "no part list")
            self._content = {step: content}
        return self._content[step]

    def read_extra(self, step: int) -> dict[str, Any]:
        """The dictionary of a checkpoint."""
        return dict(self._read(step)["extra"])

    def read_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a checkpoint."""
        arrays = self._read(step)["arrays"]
        return {name: tuple(one["shape"]) for name, one in arrays.items()}

    def read_state(self, step: int, template: Any) -> Any:
        """The arrays of a checkpoint, with the tree, dtypes and shardings of the template.

        Raises:
            ValueError: when one is not what was saved.
            UserError: the bucket cannot be read.
        """
        content, wanted = self._read(step), name_leaves(template)
        needed = [
            (name, part)
            for name, leaf in wanted.items()
            for part in _list_needed(leaf, content["arrays"][name]["parts"])
        ]
        objects = [f"{self._root}/{name}" for name in content["objects"]]
        found = _download(content["arrays"], objects, needed)
        leaves = []
        for name, leaf in wanted.items():
            parts = {part: one for (owner, part), one in found.items() if owner == name}
            leaves.append(_make_array(leaf, parts))
        return jax.tree.unflatten(jax.tree.structure(template), leaves)


class _Step:
    """What the retention policy asks of a checkpoint."""

    def __init__(self, step: int):
        self.step = step


def _list_own_parts(named: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """The parts of arrays that this process uploads; of several copies, the first."""
    found = []
    for name, leaf in named.items():
        if leaf.is_fully_addressable:  # the same in every process
            if is_main_process():
                found += [(name, name_part(part), one) for part, one in list_parts(leaf)]
            continue
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                found.append((name, name_part(_bound(shard.index, leaf.shape)), shard.data))
    return found


def _bound(index: tuple[slice, ...], shape: tuple[int, ...]) -> Part:
    """The slices of a shard, with both ends."""
    return tuple(slice(*one.indices(size)[:2]) for one, size in zip(index, shape, strict=True))


def _place(own: Iterable[tuple[str, str, np.ndarray]]) -> dict[str, dict[str, Place]]:
    """By array and part, where its bytes are in the object of this process."""
    places: dict[str, dict[str, Place]] = {}
    start = 0
    for name, part, found in own:
        place = process_index(), start, found.nbytes, compute_checksum(found)
        places.setdefault(name, {})[part] = place
        start += found.nbytes
    return places


def _to_bytes(part: np.ndarray) -> memoryview:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def _list_needed(leaf: jax.Array, saved: Mapping[str, Place]) -> list[str]:
    """The saved parts that overlap with what this process holds of an array."""
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
    bounds = {name_part(one): one for one in (_bound(index or (), leaf.shape) for index in indices)}
    return [
        part
        for part in saved
        if any(_find_overlap(parse_part(part), bound) is not None for bound in bounds.values())
    ]


def _find_overlap(one: Part, other: Part) -> Part | None:
    """What two parts of an array have in common."""
    both = tuple(
        slice(max(first.start, second.start), min(first.stop, second.stop))
        for first, second in zip(one, other, strict=True)
    )
    return both if all(part.start < part.stop for part in both) else None


def _download(
    arrays: Mapping[str, Any], objects: Sequence[str], needed: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], np.ndarray]:
    """Parts of arrays, by array and part; neighbours in an object are read together.

    Raises:
        ValueError: one is not what was written.
        UserError: the bucket cannot be read.
    """
    places = sorted((arrays[name]["parts"][part], name, part) for name, part in needed)
    runs: list[list[Any]] = []
    for place, name, part in places:
        number, start, size, _ = place
        last = runs[-1][-1][0] if runs else None
        follows = last is not None and last[0] == number and last[1] + last[2] == start
        if follows and start + size - runs[-1][0][0][1] <= BLOCK_BYTES:
            runs[-1].append((place, name, part))
        else:
            runs.append([(place, name, part)])

    def read(run: list[Any]) -> list[tuple[tuple[str, str], np.ndarray]]:
        (number, first, *_), (_, start, size, _) = run[0][0], run[-1][0]
        whole = _read_range(objects[number], first, start + size)
        return [
            ((name, part), _read_part(whole, place, first, name, part, arrays[name]["dtype"]))
            for place, name, part in run
        ]

    with ThreadPoolExecutor(MAX_DOWNLOADS) as pool:
        return dict(one for found in pool.map(read, runs) for one in found)


def _read_range(name: str, start: int, end: int) -> bytes:
    """Bytes of an object.

    Raises:
        ValueError: it is gone, or too short.
    """
    if start == end:
        return b""
    with report_bucket_errors(f"gs://{name}"):
        try:
            content: bytes = file_system().cat_file(name, start, end)
        except FileNotFoundError:
            content = b""
    if len(content) != end - start:
        raise ValueError(f"{name.rpartition('/')[2]} is not what was written")
    return content


def _read_part(
    whole: bytes, place: Place, first: int, name: str, part: str, dtype: str
) -> np.ndarray:
    """One part of an array, from bytes of an object that begin at ``first``."""
    _, start, size, checksum = place
    shape = [one.stop - one.start for one in parse_part(part)]
    kind = jnp.dtype(dtype)
    found = np.frombuffer(whole, kind, math.prod(shape), start - first).reshape(shape)
    if found.nbytes != size or compute_checksum(found) != checksum:
        raise ValueError(f"{name} is not what was written")
    return found


def _make_array(leaf: jax.Array, parts: Mapping[str, np.ndarray]) -> jax.Array:
    """An array like ``leaf`` from the parts that this process needs."""

    def cut(index: tuple[slice, ...] | None) -> np.ndarray:
        wanted = _bound(index or (), leaf.shape)
        whole = np.empty([one.stop - one.start for one in wanted], leaf.dtype)
        for name, found in parts.items():
            part = parse_part(name)
            if (both := _find_overlap(part, wanted)) is not None:
                inside, outside = find_inside(both, wanted), find_inside(both, part)
                whole[inside] = found[outside]
        return whole

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, cut)
