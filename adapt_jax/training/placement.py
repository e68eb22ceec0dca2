"""Where the arrays of a training are: on one device, or sharded over a mesh."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adapt_jax.decoders.sharding import batch_sharding, state_shardings
from adapt_jax.training.packing import Batch, BatchShape
from adapt_jax.training.step import TrainState
from adapt_jax.utils.distributed import num_processes
from adapt_jax.utils.errors import UserError

__all__ = ["Placement", "batch_shardings"]


@dataclass(frozen=True)
class Placement:
    """Puts arrays onto the mesh, or onto the one device where there is none."""

    mesh: Mesh | None = None

    @property
    def row_multiple(self) -> int:
        """Devices that share the rows of a batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def check_shape(self, shape: BatchShape) -> None:
        """Raises UserError where the devices cannot share a batch's rows evenly."""
        rest = shape.rows % self.row_multiple
        if self.mesh is None or not rest:
            return
        less = shape.rows - rest
        raise UserError(
            f"a batch of {shape.rows} rows cannot be shared by data {self.mesh.shape['data']} x "
            f"fsdp {self.mesh.shape['fsdp']} = {self.row_multiple}: {shape.rows} / "
            f"{self.row_multiple} leaves {rest}; choose {f'{less} or ' if less else ''}"
            f"{less + self.row_multiple} rows"
        )

    def place_parameters(self, state: Any) -> Any:
        """Parameters as their logical axes say (see decoders.sharding)."""
        if self.mesh is None:
            return state
        return jax.device_put(state, state_shardings(state, self.mesh))

    def place_train_state(self, state: TrainState) -> TrainState:
        """Binds the state to its devices, as a step returns it: otherwise the second step would
        compile again. Counters of the optimizer, which follow no parameter, are on all devices."""
        if self.mesh is None:
            return jax.device_put(state, jax.local_devices()[0])
        replicated = NamedSharding(self.mesh, PartitionSpec())

        def place(leaf: jax.Array) -> jax.Array:
            follows = isinstance(leaf.sharding, NamedSharding)
            return leaf if follows else jax.device_put(leaf, replicated)

        return jax.tree.map(place, state)

    def place_batch(self, batch: Batch) -> Batch:
        """Rows and targets over the devices. Each process takes its own share of the batch."""
        if self.mesh is None:
            return jax.device_put(batch)
        shardings = batch_shardings(batch, self.mesh)
        if num_processes() == 1:
            return jax.device_put(batch, shardings)
        return jax.tree.map(
            lambda leaf, place: jax.make_array_from_process_local_data(
                place, np.asarray(leaf), np.shape(leaf)
            ),
            batch,
            shardings,
        )


def batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """Rows, and targets where they divide, over ``data`` and ``fsdp``; microbatches stay whole."""
    spec, axis = batch_sharding(mesh).spec, batch.tokens.ndim - 2

    def place(leaf: Any) -> NamedSharding:
        divides = leaf.shape[axis] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, *(spec if divides else ())))

    return jax.tree.map(place, batch)
