"""Where arrays lie: one table from logical axis to mesh axis.

``jax.jit`` over arrays placed so is all of the parallelism; XLA adds the communication.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from adapt_jax.utils.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axes stand in each parameter's ``axes``; "rows" is the first axis of a batch.
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
    """A mesh of all devices (or of those given); one size may be -1, meaning "what is left".

    Raises:
        UserError: the sizes do not multiply to the number of devices.
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
    return jax.make_mesh(tuple(sizes), MESH_AXES, (AxisType.Auto,) * 3, devices=devices)


def platform_of(mesh: Mesh | None) -> str:
    """cpu, gpu or tpu."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def array_sharding(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where an array with these logical axes lies; an axis that does not divide is replicated.

    Raises:
        ValueError: two logical axes of one array claim the same mesh axis, or one is not in LOGICAL_AXIS_RULES.
    """
    taken: dict[str, str] = {}
    parts: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in LOGICAL_AXIS_RULES:
            raise ValueError(
                f"logical axis {axis!r} is not in LOGICAL_AXIS_RULES; it has: {', '.join(LOGICAL_AXIS_RULES)}"
            )
        mesh_axes = () if axis is None else LOGICAL_AXIS_RULES[axis]
        for name in mesh_axes:
            if name in taken:
                raise ValueError(
                    f"logical axes {taken[name]!r} and {axis!r} both claim mesh axis {name!r}"
                )
            taken[name] = str(axis)
        ways = int(np.prod([mesh.shape[name] for name in mesh_axes]))
        parts.append(mesh_axes if mesh_axes and size % ways == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*parts))


def state_shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The sharding of every parameter, in a tree like ``state`` (abstract or concrete).

    Parameters say their logical axes in their ``axes``; what has none is replicated.
    """

    def place(variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_value()
        axes = variable.get_metadata().get("axes", (None,) * len(value.shape))
        return variable.replace(array_sharding(axes, value.shape, mesh))

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of a batch: its first axis, rows, is spread over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL_AXIS_RULES["rows"]))
