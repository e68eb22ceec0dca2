"""Parameters on their way from a file to the devices: one tensor at a time, turned where it goes.

A tensor is read as it lies in the file, by several threads, into memory that is used again for the
next one, because new memory costs a CPU more than all of the reading. A CPU device takes that
memory as its own for the moment; the device itself then casts and turns what it holds.
"""

import mmap
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.tensor_files import FLOATS, FileTensor, nbytes
from adapt_jax.decoders.tensors import Index, ParameterPath, Shape, Stored

READ = 1 << 21  # bytes that a thread reads at a time


class Reader:
    """Threads that read, and the memory they read into. Used in a ``with`` block."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        self.memory = np.empty(0, np.uint8)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def room(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """Memory for a tensor; what stood there is gone."""
        size = nbytes(shape, dtype)
        if self.memory.size < size:
            self.memory = np.empty(0, np.uint8)  # not both at once
            self.memory = aligned((size,), np.dtype(np.uint8))
        return self.memory[:size].view(dtype).reshape(shape)

    def fill(self, rows: np.ndarray, tensor: FileTensor, first: int) -> None:
        """Reads the tensor's rows from ``first`` on."""
        step = max(1, READ // max(nbytes(rows.shape[1:], rows.dtype), 1))

        def read(at: int) -> None:
            tensor.read_into(rows[at : at + step], first + at)

        list(self.pool.map(read, range(0, len(rows), step)))


@dataclass(frozen=True)
class HeldTensor:
    """A tensor in a file, of which one part at a time can be had: the next takes its place.

    ``kept``: parts may be kept; each is read into memory of its own.
    """

    tensor: FileTensor
    reader: Reader
    kept: bool

    def __getitem__(self, index: Index) -> np.ndarray:
        """A part, by a slice for each axis; whole rows are read."""
        shape, kind = self.tensor.shape, FLOATS[self.tensor.dtype]
        if not shape:
            return self.tensor[index]
        first, last, _ = index[0].indices(shape[0])
        size = (max(last - first, 0), *shape[1:])
        rows = aligned(size, kind) if self.kept else self.reader.room(size, kind)
        self.reader.fill(rows, self.tensor, first)
        return rows[(slice(None), *index[1:])]


def read_parameter(
    reader: Reader,
    tensors: Mapping[str, FileTensor],
    stored: Stored,
    path: ParameterPath,
    shapes: Mapping[ParameterPath, Shape],
    dtype: Any,
    place: Sharding,
) -> jax.Array:
    """One parameter; each device's part is read on its own, and one part at a time is held."""
    kind = FLOATS[tensors[stored.names[0]].dtype]
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else kind
    dtype, swapped = jnp.dtype(dtype), stored.swapped and len(shapes[path]) > 1
    as_stored = not swapped and dtype == kind
    held = {name: HeldTensor(tensors[name], reader, as_stored) for name in stored.names}
    parts: dict[str, tuple[Index, list[Any]]] = {}
    for device, index in place.addressable_devices_indices_map(shapes[path]).items():
        bounds = zip(index or (), shapes[path], strict=True)
        whole = tuple(slice(*one.indices(size)[:2]) for one, size in bounds)
        parts.setdefault(str(whole), (whole, []))[1].append(device)

    def sent(part: np.ndarray, device: Any) -> jax.Array:
        if as_stored:
            return jax.device_put(part, device)
        lying = np.swapaxes(part, -1, -2) if swapped else part  # as in the file
        return turn(jax.device_put(lying, device), swapped, dtype)

    pieces: list[jax.Array] = []
    for index, devices in parts.values():
        if len(stored.names) == 1:
            part = stored.read(path, shapes, held, index)
            pieces += jax.block_until_ready([sent(part, device) for device in devices])
            continue
        size = tuple(one.stop - one.start for one in index)
        wholes = [jnp.zeros(size, dtype, device=device) for device in devices]
        for at in range(size[0]):  # expert by expert: each is a tensor of its own
            one = slice(index[0].start + at, index[0].start + at + 1)
            part = stored.read(path, shapes, held, (one, *index[1:]))
            wholes = jax.block_until_ready(
                [
                    put(whole, sent(part, device), at)
                    for whole, device in zip(wholes, devices, strict=True)
                ]
            )
        pieces += wholes
    return jax.make_array_from_single_device_arrays(shapes[path], place, pieces)


@partial(jax.jit, static_argnums=(1, 2))
def turn(x: Float[Array, "..."], swapped: bool, dtype: Any) -> Float[Array, "..."]:
    """Cast, and with the last two axes the other way round if ``swapped``; always new memory."""
    return (jnp.swapaxes(x, -1, -2) if swapped else x).astype(dtype)


@partial(jax.jit, donate_argnums=0)
def put(
    whole: Float[Array, "E I O"], part: Float[Array, "1 I O"], at: Int[Array, ""]
) -> Float[Array, "E I O"]:
    """The parameter with this expert in its place."""
    return jax.lax.dynamic_update_slice_in_dim(whole, part, at, axis=0)


def aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An array that begins where XLA wants it to, so that a CPU device takes it uncopied.

    The memory is asked of the system itself: NumPy would ask for huge pages, which a virtual
    machine may take twice as long to give. Pages that could be shared take longer, too.
    """
    memory = mmap.mmap(-1, max(nbytes(shape, dtype), 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw = np.frombuffer(memory, np.uint8)
    return raw[: nbytes(shape, dtype)].view(dtype).reshape(shape)
