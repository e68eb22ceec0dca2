"""The training step of a tuning method, and the merging after it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import choose_execution
from adapt_jax.decoders.sharding import platform_of
from adapt_jax.inspection.abstract import (
    Tree,
    cast,
    count_bytes,
    replicate,
    shard_like_params,
    shard_params,
    with_sharding,
)
from adapt_jax.inspection.workload import Program, Workload
from adapt_jax.methods.base import TuningMethod
from adapt_jax.pretrained.loading import abstract_decoder, abstract_rngs, get_parameters
from adapt_jax.training.batches import Batches
from adapt_jax.training.config import TrainingConfig, choose_num_microbatches, prepare_frozen
from adapt_jax.training.optimizers import make_optimizer
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.placement import batch_shardings
from adapt_jax.training.step import TrainState, init_state, make_step
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.cpu import MAX_CHECKPOINT_COPY_BYTES
from adapt_jax.utils.errors import UserError

__all__ = [
    "AbstractTuning",
    "resolve_config",
    "trace_tuning",
    "make_training_programs",
]


@dataclass(frozen=True)
class AbstractTuning:
    """The parameters that a tuning method trains, as abstract arrays.

    Attributes:
        graph: of the TunedDecoder.
        trainable: float32, as training holds it.
        frozen: in the dtype that was asked for.
        replaced: the part of ``trainable`` that the decoder has itself; the original stays beside.
        soft_prompt_length: in tokens.
        ensemble: members of the soft prompt; None where it is no ensemble.
        adds_modules: whether something is added to the decoder's layers.
    """

    graph: Any
    trainable: Tree
    frozen: Tree
    replaced: Tree
    soft_prompt_length: int
    ensemble: int | None
    adds_modules: bool


def trace_tuning(config: DecoderConfig, method: TuningMethod, dtype: Any) -> AbstractTuning:
    """Asks a tuning method what it adds to a decoder of this shape, and what it trains.

    Args:
        dtype: of the frozen parameters.

    Raises:
        UserError: the method's options do not fit the decoder.
    """
    filters: list[Any] = []

    def make() -> TunedDecoder:
        tuned = method.add_modules(Decoder(config, rngs=abstract_rngs()), abstract_rngs())
        filters.append(method.trainable_filter(tuned))
        return tuned

    tuned = nnx.eval_shape(make)
    graph, trainable, frozen = nnx.split(tuned, filters[0], ...)  # type: ignore[misc]
    own = {("decoder", *path) for path in get_parameters(abstract_decoder(config))}
    trained = [(tuple(path), leaf) for path, leaf in nnx.to_flat_state(trainable)]
    return AbstractTuning(
        graph,
        trainable,
        cast(frozen, dtype),
        nnx.from_flat_state([(path, leaf) for path, leaf in trained if path in own]),
        tuned.soft_prompt_length,
        tuned.ensemble,
        any(path[0] == "decoder" and path not in own for path, _ in trained),
    )


def make_training_programs(
    config: DecoderConfig, method: TuningMethod, work: Workload, dtype: Any, mesh: Mesh | None
) -> list[Program]:
    """The training step, and the merging after it where the method merges something.

    Raises:
        UserError: the examples do not fit the context, or do not reach all devices.
    """
    traced = trace_tuning(config, method, dtype)
    step = _make_training_step(config, method, traced, work, dtype, mesh)
    return [step, *_make_merging_program(method, traced, mesh)]


def _make_training_step(
    config: DecoderConfig,
    method: TuningMethod,
    traced: AbstractTuning,
    work: Workload,
    dtype: Any,
    mesh: Mesh | None,
) -> Program:
    """The training step, as the trainer makes it."""
    prefix_length = work.prefix + traced.soft_prompt_length
    if prefix_length + work.length > config.context_length:
        raise UserError(
            f"{method.name}: {prefix_length} tokens of the prompt prefix and {work.length} of an "
            f"example are {prefix_length + work.length}; the context holds {config.context_length}"
        )
    settings = resolve_config(method.training, mesh)
    batch = _pack_batch(work, settings, mesh)
    tokens = replicate(np.zeros(work.prefix, np.int32), mesh)
    trainable = shard_params(traced.trainable, mesh)
    loaded = shard_params(traced.frozen, mesh)
    frozen = _prepare_frozen(loaded, settings)
    optimizer, ensemble = make_optimizer(settings), bool(traced.ensemble)
    initial = jax.eval_shape(partial(init_state, optimizer, ensemble=ensemble), trainable)
    opt_state = shard_like_params(initial.opt_state, trainable, mesh)
    state = TrainState(trainable, opt_state)

    # arrays beside the step: the decoder as it was loaded, the best step, a checkpoint's copy
    co_resident: dict[str, Tree] = {}
    if traced.replaced:
        co_resident["original"] = cast(shard_params(traced.replaced, mesh), dtype)
    if settings.frozen_dtype is not None:
        co_resident["original/frozen"] = loaded
    if settings.validate_every:
        co_resident["best/step"] = trainable
    if platform_of(mesh) == "cpu" and count_bytes(state) <= MAX_CHECKPOINT_COPY_BYTES:
        co_resident["checkpoint/copy"] = state

    # make_step compiles a probe, so it waits until the program is lowered
    step: Callable[[], Any] = partial(
        make_step, traced.graph, optimizer, settings, ensemble=ensemble, mesh=mesh
    )
    return Program(
        "training step",
        arguments={
            "parameters": frozen,
            "parameters/trained": trainable,
            "optimizer/state": opt_state,
            "batch/examples": (batch, tokens),
        },
        lower=lambda: step().lower(state, frozen, batch, tokens),
        co_resident=co_resident,
        internal={"gradients": trainable},
        scans_layers=choose_execution(mesh, settings.remat).scan_layers,
    )


def _make_merging_program(
    method: TuningMethod, traced: AbstractTuning, mesh: Mesh | None
) -> list[Program]:
    """After the training: changed copies of frozen parameters beside the originals, if any."""
    trained = [tuple(path) for path, _ in nnx.to_flat_state(traced.trainable)]
    paths = method.merged_paths(trained)
    if not paths:
        return []
    frozen = dict(nnx.to_flat_state(shard_params(traced.frozen, mesh)))
    merged = [frozen[path] for path in sorted(paths, key=str)]
    return [Program("merging", {"parameters": list(frozen.values()), "merged": merged})]


def resolve_config(config: TrainingConfig, mesh: Mesh | None) -> TrainingConfig:
    """The options of a training, with those decided that depend on where it runs."""
    decided: dict[str, Any] = {"gradient_accumulation_steps": choose_num_microbatches(config, mesh)}
    if config.compute_dtype == "auto":
        decided["compute_dtype"] = "float32" if platform_of(mesh) == "cpu" else "bfloat16"
    return config.model_copy(update=decided)


def _prepare_frozen(loaded: Tree, config: TrainingConfig) -> Tree:
    """The frozen parameters in the dtype in which the run holds them."""
    if config.frozen_dtype is None:
        return loaded
    prepared = jax.eval_shape(partial(prepare_frozen, config=config), loaded)
    return jax.tree.map(lambda leaf, old: with_sharding(leaf, old.sharding), prepared, loaded)


def _pack_batch(work: Workload, config: TrainingConfig, mesh: Mesh | None) -> Tree:
    """A batch of such examples, in the shape and place that the trainer gives it.

    Raises:
        UserError: fewer rows than devices that share them.
    """
    example = TrainingExample("", (0,) * work.length, work.length - work.answer)
    make_batches = partial(
        Batches,
        [example] * work.batch,
        work.batch,
        1,
        seed=0,
        row_length=config.row_length,
        num_microbatches=config.gradient_accumulation_steps,
        packing=config.packing,
    )
    if mesh is None:
        return replicate(next(make_batches()), None)
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    batches = make_batches()
    shape, microbatches = batches.shape, batches.num_microbatches
    if shape.rows < devices:
        each = f" in each of {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"batch: {work.batch} examples of {work.length} tokens pack into {shape.rows} rows of "
            f"{shape.row_length}{each}, but data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']} makes {devices} devices that share the rows; expected at "
            f"least {devices * microbatches * (shape.row_length // work.length)} examples"
        )
    batch = next(make_batches(row_multiple=devices))
    return jax.tree.map(with_sharding, batch, batch_shardings(batch, mesh))
