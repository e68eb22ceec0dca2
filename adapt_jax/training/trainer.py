"""The one trainer: what is trained, how it starts, and the batches are handed to it."""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adapt_jax.decoders.sharding import batch_sharding, state_shardings
from adapt_jax.training.batches import Batches
from adapt_jax.training.checkpoints import Checkpoints
from adapt_jax.training.config import TrainingConfig, choose_num_microbatches, prepare_frozen
from adapt_jax.training.metrics_log import MetricsLog, Row, draw
from adapt_jax.training.optimizers import make_optimizer
from adapt_jax.training.packing import Batch, BatchShape, TrainingExample
from adapt_jax.training.step import init_state, make_step
from adapt_jax.training.throughput import StepFlops, peak_flops
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import AccuracyFn, Best, Validation, Validator
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.interruption import Interrupted, agree_to_stop, listen_for_stop

OnStep = Callable[[int, int, str], None]  # step (from 1), of how many, how it goes
DIVERGING = 10  # steps in a row
RECENT = 20  # steps that the pace is taken from
NAMED = 8  # examples of a bad batch
MEASURED = ("loss", "accuracy", "gradient_norm")  # on the device, in the order of the log
HOW_OFTEN = {
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
}  # they change nothing in the result


@dataclass
class TrainingResult:
    """What a run did: loss in nats per target token of every step, its best step, its cost."""

    losses: list[float] = field(default_factory=list)
    trainable_parameters: int = 0
    seconds: float = 0.0
    padding_share: float = 0.0
    dropped: int = 0
    best: Best | None = None


def train(
    model: TunedDecoder,
    trainable: Any,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    *,
    seed: int,
    prompt_prefix: Sequence[int] = (),
    shape: BatchShape | None = None,
    folder: Path | None = None,
    mesh: Mesh | None = None,
    on_step: OnStep | None = None,
    run_metadata: Mapping[str, Any] | None = None,
    accuracy_fn: AccuracyFn | None = None,
    validation: Validation | None = None,
) -> TrainingResult:
    """Trains the part of ``model`` that the filter ``trainable`` selects, in place.

    A run with a folder survives its process: killed at any moment and called again with the same
    arguments, it goes on from its last checkpoint and ends, on as many devices, with the same
    parameters to the bit and the same metrics.jsonl (but for what the clock says).

    Args:
        trainable: an nnx filter, for example ``nnx.Param`` or ``nnx.PathContains("soft_prompt")``.
        front: token ids that stand, as shared prefix, in front of every example.
        shape: for sources without end (see batches.Batches).
        folder: where metrics and checkpoints go.
        mesh: where the decoder lies and the batches go.
        on_step: called after each step.
        run_metadata: settings that make the run what it is, as plain JSON; a checkpoint of others
            is refused.
        accuracy_fn: answers the development questions, for ``metric: accuracy``.
        validation: the development split, for ``config.validate_every``; what is trained comes
            back as it was at the best step, without it as it was at the last.

    Raises:
        UserError: nothing to train, a batch that cannot be shared by the mesh, a loss or gradient
            that is not a number (step and examples are named), or a folder of another run.
        Interrupted: SIGTERM or Ctrl-C came; all is saved.
    """
    graph, chosen, frozen = nnx.split(model, trainable, ...)  # type: ignore[misc]
    count = sum(leaf.size for leaf in jax.tree.leaves(chosen))
    if count == 0:
        raise UserError("nothing is trainable: the chosen part of the decoder has no parameter")
    chosen = jax.tree.map(jnp.copy, chosen)  # the state is donated, the caller's arrays are not
    place_batch: Callable[[Any], Any] = jax.device_put
    row_multiple = 1
    if mesh is not None:
        chosen = jax.device_put(chosen, state_shardings(chosen, mesh))
        frozen = jax.device_put(frozen, state_shardings(frozen, mesh))
        row_multiple = mesh.shape["data"] * mesh.shape["fsdp"]
        place_batch = lambda batch: jax.device_put(batch, batch_shardings(batch, mesh))  # noqa: E731
        if shape is not None and (rest := shape.rows % row_multiple):
            less = shape.rows - rest
            raise UserError(
                f"a batch of {shape.rows} rows cannot be shared by data {mesh.shape['data']} x "
                f"fsdp {mesh.shape['fsdp']} = {row_multiple}: {shape.rows} / {row_multiple} leaves "
                f"{rest}; choose {f'{less} or ' if less else ''}{less + row_multiple} rows"
            )
    loaded, frozen = frozen, prepare_frozen(frozen, config)
    batches = Batches(
        examples,
        config.batch_size,
        config.steps,
        seed=seed,
        row_length=config.row_length,
        shape=shape,
        row_multiple=row_multiple,
        num_microbatches=choose_num_microbatches(config, mesh),
        packing=config.packing,
    )
    update = make_optimizer(config)
    ensemble = model.ensemble
    state = init_state(update, chosen, ensemble=bool(ensemble))
    if mesh is None:  # bound to its device, as the step returns it: else it would compile twice
        state = jax.device_put(state, jax.devices()[0])
    else:
        state = jax.tree.map(lambda leaf: _on_mesh(leaf, mesh), state)
    step = make_step(graph, update, config, ensemble=bool(ensemble))
    tokens = jnp.asarray(prompt_prefix, jnp.int32)
    best, best_weights, validator = Best(config.metric), None, None
    if validation is not None and config.validate_every:
        validator = Validator(
            validation,
            config,
            batches.shape,
            graph,
            loaded,
            accuracy_fn,
            place_batch,
            bool(ensemble),
        )

    with ExitStack() as stack:
        checkpoints, first = None, 0
        heard: Callable[[], str | None] = str  # nothing, ever
        if folder is not None and config.checkpoint_every != 0:
            every, keep = config.checkpoint_every, config.keep_checkpoints
            checkpoints = stack.enter_context(Checkpoints(folder, every=every, keep=keep))
            heard = stack.enter_context(listen_for_stop())
            run = _identity(config, seed, prompt_prefix, examples, chosen, loaded, run_metadata)
            if (found := checkpoints.restore(state, run)) is not None:
                first, state = found.step, found.state
                batches.set_state(found.extra["data"])
                best = Best(**found.extra["validation"])
                if best.step is not None:
                    best_weights = jax.tree.map(jnp.copy, (found.best or state).trainable)
        log = stack.enter_context(MetricsLog(folder, first, config.trackers))
        work = StepFlops(chosen, loaded, _prefix_length(model, prompt_prefix), ensemble or 1)
        peak = 0.0
        if folder is not None or on_step is not None:
            peak = peak_flops()
        waiting: Row = {}  # of the step before: the device works while the host packs
        clock = time.perf_counter()

        def settle() -> None:
            """Waits for the step whose row is waiting, if one is, and writes its row."""
            nonlocal clock
            if waiting:
                row = _settled(waiting, log.losses, batches)
                before, clock = clock, time.perf_counter()
                log.write(row | {"time": _pace(row, clock - before, work, peak)})
                waiting.clear()
                if on_step is not None:
                    on_step(row["step"], config.steps, _note(log.steps))

        def exhausted() -> bool:
            return config.patience is not None and best.stale >= config.patience

        for index in range(first, config.steps):
            if exhausted():
                break
            batch = next(batches)
            state, measured = step(state, frozen, place_batch(batch), tokens)
            settle()
            waiting |= {"step": index + 1, **{name: measured[name] for name in MEASURED}}
            waiting |= _counts(batch)
            last, improved = index + 1 == config.steps, False
            if validator is not None and (last or (index + 1) % config.validate_every == 0):
                settle()
                judged = validator.measure(state.trainable, frozen, tokens)
                if improved := best.better(index + 1, judged[f"development_{config.metric}"]):
                    best_weights = jax.tree.map(jnp.copy, state.trainable)
                log.write({"step": index + 1, **judged, "best_step": best.step})
                last, clock = last or exhausted(), time.perf_counter()
            stopping = agree_to_stop(heard, index + 1)
            if checkpoints is not None and (
                last or improved or stopping or checkpoints.due(index + 1)
            ):
                settle()
                _check_finite(state.trainable, index + 1)
                log.sync()
                extra = {"data": batches.get_state(), "run": run, "seed": seed}
                extra |= {"best": best.step, "validation": best.to_dict()}
                checkpoints.save(index + 1, state, extra)
            if stopping and not last:
                raise Interrupted(
                    f"stopped by {stopping} after step {index + 1} of {config.steps}, saved in "
                    f"{folder}; the same command goes on from there"
                )
        settle()
        if folder is not None and jax.process_index() == 0:
            draw(log.rows, folder / "loss.png")
    nnx.update(model, state.trainable if best_weights is None else best_weights)
    return TrainingResult(
        losses=log.losses,
        trainable_parameters=count,
        seconds=sum(row["time"]["seconds"] for row in log.steps),
        padding_share=float(np.mean([row["padding"] for row in log.steps])),
        dropped=batches.dropped,
        best=best if validator is not None else None,
    )


def _counts(batch: Batch) -> Row:
    """What a batch holds: tokens and targets, and the share of its places that is padding."""
    tokens = int(np.count_nonzero(batch.segments))
    return {
        "tokens": tokens,
        "targets": int(np.count_nonzero(batch.target_weight)),
        "padding": round(1 - tokens / np.size(batch.segments), 6),
    }


def _prefix_length(model: TunedDecoder, prompt_prefix: Sequence[int]) -> int:
    """Tokens that a step computes once for all rows."""
    soft_prompt = model.soft_prompt
    return len(prompt_prefix) + (0 if soft_prompt is None else len(soft_prompt))


def _pace(row: Row, seconds: float, work: StepFlops, peak: float) -> Row:
    """What the clock says of a step."""
    flops = work.flops(row["tokens"], row["targets"])
    return {
        "seconds": round(seconds, 6),
        "tokens_per_second": round(row["tokens"] / seconds, 1),
        "peak_share": round(flops / seconds / peak, 5) if peak else None,
    }


def _note(rows: Sequence[Row]) -> str:
    """The last step in a few words; the pace is that of the last RECENT steps."""
    recent = rows[-RECENT:]
    seconds = sum(row["time"]["seconds"] for row in recent)
    pace = sum(row["tokens"] for row in recent) / seconds
    share = sum(row["time"]["peak_share"] * row["time"]["seconds"] for row in recent) / seconds
    return f"loss {rows[-1]['loss']:.3f}, {pace:,.0f} tokens/s, {100 * share:.0f} % of peak"


def _settled(row: Row, earlier: list[float], batches: Batches) -> Row:
    """The row with the numbers from the device.

    Raises:
        UserError: the loss or the gradient is no number, or the run diverges: each of the last
            DIVERGING losses is more than twice what it was at first, and more than 1 nat above it.
    """
    row = row | {name: float(row[name]) for name in MEASURED}
    step, loss, norm = row["step"], row["loss"], row["gradient_norm"]
    recent, first = [*earlier[1 - DIVERGING :], loss], [*earlier, loss][0]
    diverging = len(recent) == DIVERGING and min(recent) > max(2 * first, first + 1)
    if np.isfinite(loss) and np.isfinite(norm) and not diverging:
        return row
    names = [example.id for example in batches.examples_of(step - 1)]
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" * (len(names) > NAMED))
    what = f"the loss of step {step} is {loss:.4g}"
    if np.isfinite(loss) and not np.isfinite(norm):
        what += f", but the norm of its gradient {norm:.4g}"
    if diverging:
        what += f", it was {first:.4g} at first: the run diverges"
    raise UserError(f"{what}; its batch holds the examples {shown}; try a lower learning rate")


def _check_finite(trainable: Any, step: int) -> None:
    """A checkpoint of weights that are no numbers would take the place of a good one."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trainable)):
        raise UserError(
            f"after step {step} some trained weights are not finite; the checkpoint before it is "
            "kept; try a lower learning rate"
        )


def _identity(
    config: TrainingConfig,
    seed: int,
    prompt_prefix: Sequence[int],
    examples: Sequence[TrainingExample],
    chosen: Any,
    frozen: Any,
    run_metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint, as plain JSON."""
    trained = config.model_dump(exclude=HOW_OFTEN)
    told = {**(run_metadata or {}), "training": trained, "seed": seed}
    known = examples if isinstance(examples, list) else [examples[0]] if len(examples) else []
    data = zlib.crc32(repr((tuple(prompt_prefix), known)).encode())
    return {
        **flat(json.loads(json.dumps(told))),
        "examples": f"{len(examples)} (digest {data:08x})",
        "weights": f"of digest {_digest((chosen, frozen)):08x}",
    }


def flat(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        inner = flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
        result |= inner
    return result


def _digest(tree: Any) -> int:
    """Of the shapes and the largest weights: the same wherever they lie, and quick to compute."""
    largest = [(leaf.shape, float(jnp.abs(leaf).max())) for leaf in jax.tree.leaves(tree)]
    return zlib.crc32(repr(largest).encode())


def _on_mesh(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """Step counters and the like, which follow no parameter, lie everywhere."""
    if isinstance(leaf.sharding, NamedSharding):
        return leaf
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))


def batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """Rows, and targets where they divide, lie across data and fsdp; parts follow each other."""
    spec, parts = batch_sharding(mesh).spec, batch.tokens.ndim - 2

    def place(leaf: Any) -> NamedSharding:
        shares = leaf.shape[parts] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
        return NamedSharding(mesh, PartitionSpec(*[None] * parts, *(spec if shares else ())))

    return jax.tree.map(place, batch)
