"""A decoder whose weights span several processes, copied to the devices of each of them.

Training shares one decoder among all processes. Questions are answered by each process on its own:
it then waits for no other one, and the answers are those of a single process.
"""

from dataclasses import replace
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from adapt_jax.decoders.sharding import make_mesh, state_shardings
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.utils import distributed
from adapt_jax.utils.errors import UserError

__all__ = ["copy_to_this_host"]

MAX_SHARE = 0.9  # of the free memory
COPY = "_copy_on_this_host"  # where a decoder keeps it


def copy_to_this_host(model: PretrainedDecoder) -> PretrainedDecoder:
    """The same decoder on devices of this process alone; itself, where it is there already.

    All processes call it together. It gathers one array after the other. The copy is kept beside
    the decoder.

    Raises:
        UserError: it does not fit into the memory of one host's devices.
    """
    place = model.decoder.embedding[...].sharding
    if distributed.num_processes() == 1 or place.is_fully_addressable:
        return model
    if COPY not in vars(model):
        _check_memory(model)
        mesh = place.mesh if isinstance(place, NamedSharding) else None
        decoder = _copy(model.decoder, _make_local_mesh(mesh))
        vars(model)[COPY] = replace(model, decoder=decoder)
    found: PretrainedDecoder = vars(model)[COPY]
    return found


def _make_local_mesh(mesh: Any) -> Mesh | None:
    """A mesh of this process's devices in the manner of the whole one; None for a single device."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    tensor = mesh.shape["tensor"] if mesh is not None else 1
    if len(devices) % tensor:
        tensor = 1
    is_split = mesh is not None and mesh.shape["fsdp"] > 1
    sizes = {"data": 1, "fsdp": -1} if is_split else {"data": -1, "fsdp": 1}
    return make_mesh(**sizes, tensor=tensor, devices=devices)


def _copy(decoder: Any, mesh: Mesh | None) -> Any:
    graph, state = nnx.split(decoder)
    device = SingleDeviceSharding(jax.local_devices()[0])
    places = jax.tree.map(lambda _: device, state) if mesh is None else state_shardings(state, mesh)
    copied = jax.tree.map(
        lambda array, place: jax.device_put(distributed.fetch_array(array), place), state, places
    )
    return nnx.merge(graph, copied)


def _check_memory(model: PretrainedDecoder) -> None:
    """Raises UserError where one of the hosts has too little."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model.decoder)))
    free = None
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in one for one in stats):
        free = sum(int(one["bytes_limit"]) - int(one["bytes_in_use"]) for one in stats)
    for index, one in enumerate(distributed.gather("free device memory", free)):
        if one is not None and needed > one * MAX_SHARE:
            raise UserError(
                f"{model.path}: each host answers questions on its own devices, and the decoder's "
                f"{needed / 2**30:.1f} GiB do not fit into the {one / 2**30:.1f} GiB that are free "
                f"on those of process {index}; tune and export it here, and answer on a host with "
                "more memory"
            )
