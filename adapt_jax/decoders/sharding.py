"""Where arrays lie on the devices: one table maps logical axes to mesh axes.

``jax.jit`` over arrays placed this way is all of the parallelism; XLA adds the communication.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from adapt_jax.utils.config import MeshConfig
from adapt_jax.utils.distributed import num_processes
from adapt_jax.utils.errors import UserError

__all__ = [
    "LOGICAL_AXIS_RULES",
    "MESH_AXES",
    "array_sharding",
    "batch_sharding",
    "cache_sharding",
    "choose_mesh",
    "make_mesh",
    "platform_of",
    "state_shardings",
]

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis -> the mesh axes over which it is split. A parameter names its logical axes in its
# metadata ``axes``; "rows" is the first axis of a batch.
LOGICAL_AXIS_RULES: dict[str, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "ffn": ("tensor",),
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of the given devices, by default of all. One size may be -1: as many as are left.

    Raises:
        UserError: the product of the sizes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh data={data} fsdp={fsdp} tensor={tensor} does not fit {len(devices)} devices: "
            f"{' x '.join(map(str, sizes))} = {int(np.prod(sizes))}, and the product must be their "
            "number (one size may be -1: what is left)"
        )
    types = (AxisType.Auto,) * 3
    try:
        return jax.make_mesh(tuple(sizes), MESH_AXES, types, devices=devices)
    except NotImplementedError:  # an axis of the mesh is no whole number of the slice's axes
        placed = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(placed, MESH_AXES, axis_types=types)


def choose_mesh(sizes: MeshConfig | None) -> Mesh | None:
    """The mesh of a configuration; where it names none, all devices of several processes.

    A single process without one computes on one device, and gets None.

    Raises:
        UserError: the sizes do not fit the devices.
    """
    if sizes is not None:
        return make_mesh(**sizes.model_dump())
    return None if num_processes() == 1 else make_mesh()


def platform_of(mesh: Mesh | None) -> str:
    """cpu, gpu or tpu."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def array_sharding(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of an array with these logical axes.

    An axis whose size its devices do not divide is replicated, and so is one that is None.

    Raises:
        ValueError: two logical axes of the array need the same mesh axis, or one is unknown.
    """
    claimed_by: dict[str, str] = {}
    spec: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in LOGICAL_AXIS_RULES:
            known = ", ".join(LOGICAL_AXIS_RULES)
            raise ValueError(f"unknown logical axis {axis!r}; LOGICAL_AXIS_RULES has: {known}")
        mesh_axes = () if axis is None else LOGICAL_AXIS_RULES[axis]
        for name in mesh_axes:
            if name in claimed_by:
                raise ValueError(
                    f"logical axes {claimed_by[name]!r} and {axis!r} both claim mesh axis {name!r}"
                )
            claimed_by[name] = str(axis)
        num_shards = int(np.prod([mesh.shape[name] for name in mesh_axes]))
        spec.append(mesh_axes if mesh_axes and size % num_shards == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def state_shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The sharding of every parameter, in a tree like ``state`` (abstract or concrete).

    Parameters without metadata ``axes`` are replicated.
    """

    def find(variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_value()
        axes = variable.get_metadata().get("axes", (None,) * len(value.shape))
        return variable.replace(array_sharding(axes, value.shape, mesh))

    return jax.tree.map(find, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def cache_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of cached keys or values [B, K, S, H], and of states, which begin with rows.

    Rows are split and, where they divide, heads.
    """
    heads = "kv_heads" if len(shape) == 4 else None
    return array_sharding(("rows", heads, *(None for _ in shape[2:])), shape, mesh)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis, rows, is split over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL_AXIS_RULES["rows"]))
