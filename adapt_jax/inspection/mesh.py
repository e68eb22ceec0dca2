"""The devices of a mesh that need not be there: simulated on a CPU, or a TPU topology."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax
from jax.sharding import Mesh

from adapt_jax.decoders.sharding import MESH_AXES, make_mesh
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["read_mesh"]

TOPOLOGIES = ("v4", "v5e", "v5p", "v6e")
SHAPE = "such as v5e:2x4, or v5p:2x2x1"


def read_mesh(text: str | None) -> tuple[Mesh | None, str]:
    """The mesh that ``data=2,fsdp=4``, ``v5e:2x4`` or ``v5e:2x4,data=2,fsdp=4`` describes.

    A topology alone shards the parameters over all its devices (fsdp). No text is one device.

    Returns:
        the mesh, None for one device of this machine; and the topology's name, or an empty string.

    Raises:
        UserError: an unknown axis or topology, or sizes that do not fit the devices.
    """
    sizes: dict[str, int] = {}
    topology = ""
    for part in (text or "").replace(" ", "").split(","):
        axis, equals, size = part.partition("=")
        if not part:
            continue
        if not equals:
            topology = part
        elif axis not in MESH_AXES:
            raise UserError(
                f"--mesh: unknown axis {axis!r}{nearest(axis, MESH_AXES)}; "
                f"expected {', '.join(MESH_AXES)}, or a topology {SHAPE}"
            )
        elif not re.fullmatch(r"-?\d+", size):
            raise UserError(f"--mesh: {part!r}; expected a whole number after {axis}=")
        else:
            sizes[axis] = int(size)
    if topology:
        devices = _list_topology_devices(topology)
        return _build_mesh(sizes or {"fsdp": -1}, devices, f" of {topology}"), topology
    if not sizes or all(size == 1 for size in sizes.values()):
        return None, ""
    count = math.prod(max(size, 1) for size in sizes.values())
    devices = _list_local_devices(count)
    has_rest = -1 in sizes.values()  # which is divided among all devices
    return _build_mesh(sizes, devices if has_rest else devices[:count], ""), ""


def _build_mesh(sizes: dict[str, int], devices: Sequence[Any], of: str) -> Mesh:
    """The mesh of these sizes: 1 for an axis without one; -1 takes all devices that are left."""
    asked = {axis: sizes.get(axis, 1) for axis in MESH_AXES}
    product = math.prod(asked.values())
    if -1 not in asked.values() and product != len(devices):
        spelled = " x ".join(str(asked[axis]) for axis in MESH_AXES)
        raise UserError(
            f"--mesh: data x fsdp x tensor = {spelled} = {product}, "
            f"but there are {len(devices)} devices{of}"
        )
    return make_mesh(**asked, devices=devices)


def _list_local_devices(count: int) -> Sequence[Any]:
    """All devices of this machine, at least ``count``; a CPU simulates that number.

    Raises:
        UserError: it has fewer.
    """
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # before JAX starts, a CPU can still become several devices
            jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices()
    if len(devices) < count:
        raise UserError(
            f"--mesh: asks for {count} devices, this machine has {len(devices)}; "
            f"a TPU topology can be named instead, {SHAPE}"
        )
    return devices


def _list_topology_devices(name: str) -> Sequence[Any]:
    """The devices of a TPU slice that need not be here.

    Raises:
        UserError: no such topology, or libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in TOPOLOGIES or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--mesh: unknown topology {name!r}{nearest(kind, TOPOLOGIES)}; expected {SHAPE}, "
            f"of {', '.join(TOPOLOGIES)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--mesh: {name} is compiled for by libtpu, which is not installed; "
            "the `tpu` extra brings it: pip install adapt-jax[tpu]"
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # nobody asks which TPU this machine has
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling takes no TPU from others
    from jax.experimental import topologies

    chips = [int(size) for size in shape.split("x")]
    small = {"chips_per_host_bounds": [*chips, 1][:3]} if math.prod(chips) < 4 else {}
    try:
        found = topologies.get_topology_desc(name, platform="tpu", **small)
    except Exception as error:  # whatever libtpu says of a shape that does not exist
        reason = str(error).splitlines()[0].rpartition(": ")[2]
        raise UserError(f"--mesh: no topology {name!r} ({reason})") from None
    return list(found.devices)
