"""Reads parameters from files to the devices, strip by strip.

Threads read a few rows of a tensor at a time and copy them, cast and where needed transposed, into
their place, while a core's cache still holds them. On a CPU that place is memory that the device
then keeps; for other devices it is a buffer that is used again for the next tensor. Nothing is
compiled.

Axes: E experts, I inputs, O outputs of a kernel.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.layout import Index, ParameterPath, Shape, TensorLayout
from adapt_jax.pretrained.dequantized_tensor import Tensor
from adapt_jax.pretrained.safetensors_io import FLOATS, count_bytes
from adapt_jax.utils import cpu

__all__ = ["ParameterSource", "Reader", "read_parameter"]


@dataclass(frozen=True)
class ParameterSource:
    """Where one parameter comes from.

    Attributes:
        layout: how it lies in its tensors.
        path: which parameter.
        shapes: of all parameters; fused tensors hold several.
        tensors: of the open files, by name.
    """

    layout: TensorLayout
    path: ParameterPath
    shapes: Mapping[ParameterPath, Shape]
    tensors: Mapping[str, Tensor]

    @property
    def shape(self) -> Shape:
        """The shape of the parameter."""
        return self.shapes[self.path]

    @property
    def dtype(self) -> np.dtype:
        """The dtype that is read: of the file, or float32 where its numbers are quantised."""
        return FLOATS[self._tensor.dtype]

    @property
    def default_dtype(self) -> np.dtype:
        """The dtype that the parameter has on an accelerator, where none is asked for."""
        return FLOATS[self._tensor.default_dtype]

    @property
    def is_read_by_columns(self) -> bool:
        """Whether its strips are ranges of its last axis."""
        return self.layout.transposed != self._tensor.by_columns

    @property
    def _tensor(self) -> Tensor:
        return self.tensors[self.layout.names[0]]

    def read(self, index: Index) -> np.ndarray:
        """A part of the parameter, by a slice for each axis."""
        return self.layout.read(self.path, self.shapes, self.tensors, index)


class Reader:
    """Threads that read, and the buffer for devices that copy. Used in a ``with`` block."""

    def __init__(self) -> None:
        self.threads = min(4, os.cpu_count() or 1)
        self.pool = ThreadPoolExecutor(self.threads)
        self.memory = np.empty(0, np.uint8)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def get_buffer(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """Memory for a part, of whatever content; what it held before is lost."""
        size = count_bytes(shape, dtype)
        if self.memory.size < size:
            self.memory = np.empty(0, np.uint8)  # not both at once
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size].view(dtype).reshape(shape)

    def start(
        self, source: ParameterSource, index: Index, target: np.ndarray
    ) -> list[Future[None]]:
        """Has the threads read a part of a parameter into ``target``; each future is a share."""
        pieces = list(split_into_strips(source.layout, index, source.is_read_by_columns))

        def read_share(first: int) -> None:  # a task costs a tenth of a strip: each takes many
            for strip in pieces[first :: self.threads]:
                bounds = zip(strip, index, strict=True)
                slices = (slice(a.start - b.start, a.stop - b.start) for a, b in bounds)
                here: tuple[Any, ...] = (*slices, ...)  # a view, also of a single number
                part = target[here]
                cpu.prefault(part)
                cpu.copy_into(part, source.read(strip))

        shares = range(min(self.threads, len(pieces)))
        return [self.pool.submit(read_share, first) for first in shares]

    def read(self, source: ParameterSource, index: Index) -> np.ndarray:
        """A part of a parameter in the buffer, in the dtype of the file."""
        buffer = self.get_buffer(_find_shape(index), source.dtype)
        _wait_for(self.start(source, index, buffer))
        return buffer


def split_into_strips(layout: TensorLayout, index: Index, by_columns: bool) -> Iterator[Index]:
    """A part of a parameter in pieces, each of them some whole rows of one tensor.

    Args:
        index: the part: a slice with both ends for each axis of the parameter.
        by_columns: whether the tensor's rows run along the last axis of the parameter.
    """
    if len(index) == 3:  # experts, in a tensor for each or in one for all
        for expert in range(index[0].start, index[0].stop):
            has_own = len(layout.names) > 1
            of_one = split_into_strips(layout, index[1:], by_columns) if has_own else [index[1:]]
            for rest in of_one:
                yield (slice(expert, expert + 1), *rest)
    elif layout.groups > 1 or not index:  # a group's rows lie apart, so all are read at once
        yield index
    else:
        axis = len(index) - 1 if by_columns else 0
        others = math.prod(one.stop - one.start for one in (*index[:axis], *index[axis + 1 :]))
        least = cpu.TRANSPOSE_BLOCK if by_columns else 1
        step = max(least, cpu.NUMBERS_PER_STRIP // max(others, 1))
        for first in range(index[axis].start, index[axis].stop, step):
            rows = slice(first, min(first + step, index[axis].stop))
            yield (*index[:axis], rows, *index[axis + 1 :])


def read_parameter(
    reader: Reader, source: ParameterSource, dtype: Any, place: Sharding
) -> Callable[[], jax.Array]:
    """Begins to read a parameter; what comes back waits for it.

    Each device's part is read on its own. For a device that copies, a part is read when it is
    waited for.

    Args:
        dtype: of the parameter; None: float32 on a CPU, elsewhere that of the file.
    """
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else source.default_dtype
    begin = partial(_begin_part, reader, source, jnp.dtype(dtype))
    waiting = [begin(*part) for part in _list_parts(source.shape, place)]

    def wait() -> jax.Array:
        pieces = [piece for wait_for_part in waiting for piece in wait_for_part()]
        return jax.make_array_from_single_device_arrays(source.shape, place, pieces)

    return wait


def _begin_part(
    reader: Reader, source: ParameterSource, dtype: np.dtype, index: Index, devices: list[Any]
) -> Callable[[], list[jax.Array]]:
    """Begins to read one part; what comes back waits, and gives it on each of these devices."""
    if not shares_host_memory(devices[0]):
        copy = _copy_part if len(source.layout.names) == 1 else _copy_experts
        return lambda: copy(reader, source, dtype, index, devices)
    part = cpu.allocate_aligned(_find_shape(index), dtype)
    if source.is_read_by_columns:  # then no strip is all of some rows, and none asks for its pages
        cpu.prefault(part)
    shares = reader.start(source, index, part)

    def wait() -> list[jax.Array]:
        _wait_for(shares)
        return [jax.device_put(part, device) for device in devices]

    return wait


def _copy_part(
    reader: Reader, source: ParameterSource, dtype: np.dtype, index: Index, devices: list[Any]
) -> list[jax.Array]:
    """A part that lies in one tensor, on each device."""
    part = reader.read(source, index)
    return jax.block_until_ready([to_device(part, device, dtype) for device in devices])


def _copy_experts(
    reader: Reader, source: ParameterSource, dtype: np.dtype, index: Index, devices: list[Any]
) -> list[jax.Array]:
    """A part whose experts are a tensor each, on each device: the buffer holds one expert."""
    parts = [jnp.zeros(_find_shape(index), dtype, device=device) for device in devices]
    first, stop = index[0].start, index[0].stop
    for expert in range(first, stop):
        read = reader.read(source, (slice(expert, expert + 1), *index[1:]))
        placed = zip(parts, devices, strict=True)
        parts = [
            update_expert(part, to_device(read, device, dtype), expert - first)
            for part, device in placed
        ]
        jax.block_until_ready(parts)  # before the buffer is used again
    return parts


def _list_parts(shape: Shape, place: Sharding) -> list[tuple[Index, list[Any]]]:
    """Each part of an array that lies on devices of this host, once, and all that hold it."""
    parts: dict[str, tuple[Index, list[Any]]] = {}
    for device, index in place.addressable_devices_indices_map(shape).items():
        bounds = zip(index or (), shape, strict=True)
        whole = tuple(slice(*one.indices(size)[:2]) for one, size in bounds)
        parts.setdefault(str(whole), (whole, []))[1].append(device)
    return list(parts.values())


def _find_shape(index: Index) -> Shape:
    return tuple(one.stop - one.start for one in index)


def _wait_for(shares: list[Future[None]]) -> None:
    """Waits for the threads; raises what one of them raised."""
    for share in shares:
        share.result()


def shares_host_memory(device: jax.Device) -> bool:
    """Whether the device takes memory of the host's as its own, uncopied."""
    return device.platform == "cpu"


def to_device(part: np.ndarray, device: jax.Device, dtype: Any) -> jax.Array:
    """A part on a device, which casts it; the host's memory can then be used again."""
    return jax.device_put(part, device).astype(dtype)


@partial(jax.jit, donate_argnums=0)
def update_expert(
    parameter: Float[Array, "E I O"], expert: Float[Array, "1 I O"], number: Int[Array, ""]
) -> Float[Array, "E I O"]:
    """The parameter with one expert replaced."""
    return jax.lax.dynamic_update_slice_in_dim(parameter, expert, number, axis=0)
