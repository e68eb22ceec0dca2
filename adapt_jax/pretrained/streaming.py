"""Parameters on their way from a file to the devices, strip by strip.

Threads read a few rows of a tensor at a time and lay them, cast and where needed turned, in their
place, while a core's cache still holds them. On a CPU that place is memory that the device then
keeps; for other devices it is memory that is used again for the next tensor. Nothing is compiled.
"""

import ctypes
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.layout import Index, ParameterPath, Shape, TensorLayout
from adapt_jax.pretrained.safetensors_io import FLOATS, FileTensor, count_bytes

STRIP = 1 << 19  # numbers of a tensor that a thread reads at a time, or more
BLOCK = 256  # rows and columns that it turns at a time
POPULATE = 23  # madvise: MADV_POPULATE_WRITE, of Linux 5.14
MADVISE = ctypes.CDLL(None).madvise  # mmap's own method keeps Python's lock meanwhile
MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Reader:
    """Threads that read, and the memory they read into. Used in a ``with`` block."""

    def __init__(self) -> None:
        self.threads = min(4, os.cpu_count() or 1)
        self.pool = ThreadPoolExecutor(self.threads)
        self.memory = np.empty(0, np.uint8)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def room(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """Memory for a part, of whatever content; what stood there before is gone."""
        size = count_bytes(shape, dtype)
        if self.memory.size < size:
            self.memory = np.empty(0, np.uint8)  # not both at once
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size].view(dtype).reshape(shape)

    def begin(
        self,
        target: np.ndarray,
        stored: TensorLayout,
        path: ParameterPath,
        shapes: Mapping[ParameterPath, Shape],
        tensors: Mapping[str, FileTensor],
        index: Index,
    ) -> list[Future[None]]:
        """Has a part of the parameter at ``path`` read into ``target``; each future is a share."""
        pieces = list(strips(stored, index))

        def share(first: int) -> None:  # tasks cost a tenth of a strip, so each takes many
            for strip in pieces[first :: self.threads]:
                bounds = zip(strip, index, strict=True)
                here = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in bounds)
                populate(target[here])
                lay(target[here], stored.read(path, shapes, tensors, strip))

        return [self.pool.submit(share, first) for first in range(min(self.threads, len(pieces)))]


def new(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Memory that begins where XLA wants it to, so that a CPU device takes it uncopied.

    It is asked of the system itself: NumPy would ask for huge pages, which a virtual machine may
    take twice as long to give. Pages that could be shared take longer, too.
    """
    size = count_bytes(shape, dtype)
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)[:size].view(dtype).reshape(shape)


def populate(target: np.ndarray) -> None:
    """Asks for the pages of new memory at once: one by one, as they are touched, they take longer.

    They are still in the cache when they are written. A system that does not know how says so, and
    nothing is lost.
    """
    if target.flags.c_contiguous:
        first = -(-target.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        if (length := target.ctypes.data + target.nbytes - first) > 0:
            MADVISE(first, length, POPULATE)


def lay(target: np.ndarray, source: np.ndarray) -> None:
    """Copies what may be of another dtype, and lie the other way round.

    Turned blocks go by way of a small array whose rows do not begin a power of two apart, because
    a cache holds few of those at once.
    """
    if source.ndim < 2 or source.strides[-1] == source.itemsize:
        target[...] = source
        return
    scratch = np.empty((BLOCK, BLOCK + 64 // source.itemsize), source.dtype)
    for expert in np.ndindex(source.shape[:-2]):
        for at in range(0, source.shape[-2], BLOCK):
            for over in range(0, source.shape[-1], BLOCK):
                here = (*expert, slice(at, at + BLOCK), slice(over, over + BLOCK))
                turned = source[here].T
                block = scratch[: turned.shape[0], : turned.shape[1]]
                block[...] = turned
                target[here] = block.T


def strips(stored: TensorLayout, index: Index) -> Iterator[Index]:
    """A part of a parameter in pieces, each of them some whole rows of one tensor.

    ``index`` is the part: a slice with both ends for each axis of the parameter.
    """
    if len(index) == 3:  # experts, in a tensor for each or in one for all
        for expert in range(index[0].start, index[0].stop):
            apart = strips(stored, index[1:]) if len(stored.names) > 1 else [index[1:]]
            for rest in apart:
                yield (slice(expert, expert + 1), *rest)
    elif stored.groups > 1 or not index:  # a group's rows lie apart, so all are read at once
        yield index
    else:
        axis = len(index) - 1 if stored.transposed else 0
        others = math.prod(one.stop - one.start for one in (*index[:axis], *index[axis + 1 :]))
        step = max(BLOCK if stored.transposed else 1, STRIP // max(others, 1))
        for first in range(index[axis].start, index[axis].stop, step):
            rows = slice(first, min(first + step, index[axis].stop))
            yield (*index[:axis], rows, *index[axis + 1 :])


def read_parameter(
    reader: Reader,
    tensors: Mapping[str, FileTensor],
    stored: TensorLayout,
    path: ParameterPath,
    shapes: Mapping[ParameterPath, Shape],
    dtype: Any,
    place: Sharding,
) -> Callable[[], jax.Array]:
    """Begins to read a parameter; what comes back waits for it.

    Each device's part is read on its own. What a device does not keep is read one part at a time,
    when it is waited for.
    """
    kind = FLOATS[tensors[stored.names[0]].dtype]
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else kind
    dtype = jnp.dtype(dtype)
    begin = partial(reader.begin, stored=stored, path=path, shapes=shapes, tensors=tensors)

    def kept(index: Index, devices: list[Any]) -> Callable[[], list[jax.Array]]:
        part = new(extent(index), dtype)
        if stored.transposed:  # then no strip is all of some rows
            populate(part)
        shares = begin(part, index=index)
        return lambda: [jax.device_put(done(part, shares), device) for device in devices]

    def copied(index: Index, devices: list[Any]) -> list[jax.Array]:
        room = reader.room(extent(index), kind)
        part = done(room, begin(room, index=index))
        return jax.block_until_ready([sent(part, device, dtype) for device in devices])

    def expert_by_expert(index: Index, devices: list[Any]) -> list[jax.Array]:
        wholes = [jnp.zeros(extent(index), dtype, device=device) for device in devices]
        for at in range(index[0].stop - index[0].start):  # each is a tensor of its own
            one = (slice(index[0].start + at, index[0].start + at + 1), *index[1:])
            room = reader.room(extent(one), kind)
            part = done(room, begin(room, index=one))
            placed = zip(wholes, devices, strict=True)
            wholes = [put(whole, sent(part, device, dtype), at) for whole, device in placed]
            jax.block_until_ready(wholes)
        return wholes

    one_by_one = copied if len(stored.names) == 1 else expert_by_expert
    waiting = [
        kept(*part) if keeps(part[1][0]) else partial(one_by_one, *part)
        for part in parts_of(shapes[path], place)
    ]

    def wait() -> jax.Array:
        pieces = [piece for each in waiting for piece in each()]
        return jax.make_array_from_single_device_arrays(shapes[path], place, pieces)

    return wait


def parts_of(shape: Shape, place: Sharding) -> list[tuple[Index, list[Any]]]:
    """Each part of an array that lies on devices of this host, once, and all that hold it."""
    parts: dict[str, tuple[Index, list[Any]]] = {}
    for device, index in place.addressable_devices_indices_map(shape).items():
        bounds = zip(index or (), shape, strict=True)
        whole = tuple(slice(*one.indices(size)[:2]) for one, size in bounds)
        parts.setdefault(str(whole), (whole, []))[1].append(device)
    return list(parts.values())


def extent(index: Index) -> Shape:
    """The shape of a part."""
    return tuple(one.stop - one.start for one in index)


def done(part: np.ndarray, shares: list[Future[None]]) -> np.ndarray:
    """The part, once all shares of it are read."""
    for share in shares:
        share.result()
    return part


def keeps(device: jax.Device) -> bool:
    """Whether the device takes memory of the host's as its own, uncopied."""
    return device.platform == "cpu"


def sent(part: np.ndarray, device: jax.Device, dtype: Any) -> jax.Array:
    """A part on a device, which casts it; the host's memory can then be used again."""
    return jax.device_put(part, device).astype(dtype)


@partial(jax.jit, donate_argnums=0)
def put(
    whole: Float[Array, "E I O"], part: Float[Array, "1 I O"], at: Int[Array, ""]
) -> Float[Array, "E I O"]:
    """The parameter with this expert in its place."""
    return jax.lax.dynamic_update_slice_in_dim(whole, part, at, axis=0)
