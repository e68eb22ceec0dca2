"""The one trainer: what is trained, how it starts, and the batches are handed to it."""

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adapt_jax.decoders.sharding import row_sharding, shardings
from adapt_jax.errors import UserError
from adapt_jax.tuning.batches import Batch, Batches, Shape, TrainingExample
from adapt_jax.tuning.checkpoints import Checkpoints
from adapt_jax.tuning.losses import TunedDecoder
from adapt_jax.tuning.optimizers import TrainingConfig, optimizer
from adapt_jax.tuning.step import TrainState, make_step

OnStep = Callable[[int, int, float], None]  # step (from 1), of how many, loss


@dataclass
class TrainingResult:
    """What a run did: loss in nats per target token of every step, and its cost."""

    losses: list[float] = field(default_factory=list)
    trainable_parameters: int = 0
    seconds: float = 0.0
    padding_share: float = 0.0
    dropped: int = 0


def train(
    model: TunedDecoder,
    trainable: Any,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    *,
    seed: int,
    front: Sequence[int] = (),
    folder: Path | None = None,
    mesh: Mesh | None = None,
    shape: Shape | None = None,
    on_step: OnStep | None = None,
) -> TrainingResult:
    """Trains the part of ``model`` that the filter ``trainable`` selects, in place.

    Args:
        trainable: an nnx filter, for example ``nnx.Param`` or ``nnx.PathContains("soft_prompt")``.
        front: token ids that stand, as shared prefix, in front of every example.
        folder: where metrics and checkpoints go; a run that was interrupted there goes on.
        shape: for sources without end (see batches.Batches).

    Raises:
        UserError: nothing to train, a batch that cannot be shared by the mesh, or a loss that is
            not a number (the step is named).
    """
    graph, chosen, frozen = nnx.split(model, trainable, ...)  # type: ignore[misc]
    count = sum(leaf.size for leaf in jax.tree.leaves(chosen))
    if count == 0:
        raise UserError("nothing is trainable: the chosen part of the decoder has no parameter")
    chosen = jax.tree.map(jnp.copy, chosen)  # the state is donated, the caller's arrays are not
    place_batch: Callable[[Any], Any] = jax.device_put
    row_multiple = 1
    if mesh is not None:
        chosen = jax.device_put(chosen, shardings(chosen, mesh))
        frozen = jax.device_put(frozen, shardings(frozen, mesh))
        row_multiple = mesh.shape["data"] * mesh.shape["fsdp"]
        place_batch = lambda batch: jax.device_put(batch, _batch_shardings(batch, mesh))  # noqa: E731
    batches = Batches(
        examples,
        config.batch_size,
        config.steps,
        seed=seed,
        row_length=config.row_length,
        shape=shape,
        row_multiple=row_multiple,
    )
    update = optimizer(config)
    state = TrainState(chosen, update.init(chosen))  # not jitted: slots lie where parameters lie
    if mesh is not None:
        state = jax.tree.map(lambda leaf: _on_mesh(leaf, mesh), state)
    result = TrainingResult(trainable_parameters=count)
    checkpoints = Checkpoints(folder) if folder is not None and config.checkpoint_every else None
    first, run = 0, _identity(config, seed, front, examples)
    if checkpoints is not None and (found := checkpoints.restore(state)) is not None:
        first, state, extra = found
        _check_same_run(extra.get("run", run), run, checkpoints.folder)
        batches.set_state(extra["data"])
        result.losses = list(extra["losses"])
    step, tokens = make_step(graph, update), jnp.asarray(front, jnp.int32)
    began, pending, padding = time.perf_counter(), None, []
    try:
        for index in range(first, config.steps):
            batch = next(batches)
            padding.append(float(np.mean(np.asarray(batch.segments) == 0)))
            state, nats, _ = step(state, frozen, place_batch(batch), tokens)
            if pending is not None:  # the one before: the device works while the host packs
                _record(result, pending, config.steps, on_step)
            pending = nats
            last = index + 1 == config.steps
            if last or (checkpoints is not None and (index + 1) % config.checkpoint_every == 0):
                _record(result, pending, config.steps, on_step)
                pending = None
                if checkpoints is not None:
                    extra = {"data": batches.get_state(), "losses": result.losses, "run": run}
                    checkpoints.save(index + 1, state, extra)
    finally:  # also when interrupted: what was saved so far is written out
        if checkpoints is not None:
            checkpoints.close()
    result.seconds = time.perf_counter() - began
    result.padding_share = float(np.mean(padding)) if padding else 0.0
    result.dropped = batches.dropped
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = ({"step": i, "loss": loss} for i, loss in enumerate(result.losses, 1))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nnx.update(model, state.trainable)
    return result


def _record(result: TrainingResult, nats: jax.Array, steps: int, on_step: OnStep | None) -> None:
    loss = float(nats)
    if not np.isfinite(loss):
        raise UserError(f"the loss of step {len(result.losses) + 1} is {loss}; try a lower rate")
    result.losses.append(loss)
    if on_step is not None:
        on_step(len(result.losses), steps, loss)


def _identity(
    config: TrainingConfig, seed: int, front: Sequence[int], examples: Sequence[TrainingExample]
) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint, as plain JSON."""
    data = zlib.crc32(repr((tuple(front), examples[0] if len(examples) else None)).encode())
    told = config.model_dump(exclude={"checkpoint_every"})
    return {**told, "seed": seed, "examples": len(examples), "data": data}


def _check_same_run(there: dict[str, Any], here: dict[str, Any], folder: Path) -> None:
    for key in here:
        if there.get(key) != here[key]:
            raise UserError(
                f"{folder} holds a checkpoint of another run: {key} is {there.get(key)} there, "
                f"{here[key]} here; go on with the same settings, or choose an empty folder"
            )


def _on_mesh(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """Step counters and the like, which follow no parameter, lie everywhere."""
    if isinstance(leaf.sharding, NamedSharding):
        return leaf
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))


def _batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """Rows lie across data and fsdp; the flat target lists lie everywhere."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: row_sharding(mesh) if leaf.ndim == 2 else everywhere, batch)
