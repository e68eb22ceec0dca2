"""The very steps of training and decoding, on arrays that exist in name only.

A step is lowered from abstract arguments (``jax.ShapeDtypeStruct``), so nothing is allocated, and
the devices of its mesh need not be there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import PrefixCaches, round_up
from adapt_jax.decoders.sharding import batch_sharding, platform_of, state_shardings
from adapt_jax.methods.base import Method, PromptingMethod, TuningMethod
from adapt_jax.pretrained.loading import abstract_decoder, abstract_rngs, get_parameters
from adapt_jax.sampling import compiled as steps
from adapt_jax.sampling import shapes
from adapt_jax.training.batches import Batches
from adapt_jax.training.config import TrainingConfig, choose_num_microbatches, prepare_frozen
from adapt_jax.training.optimizers import make_optimizer
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.placement import batch_shardings
from adapt_jax.training.step import TrainState, init_state, make_step
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.cpu import MAX_CHECKPOINT_COPY_BYTES
from adapt_jax.utils.errors import UserError

Tree = Any  # of ShapeDtypeStruct, each with its sharding where there is a mesh


@dataclass(frozen=True)
class Workload:
    """What a step works on, the same for all methods.

    Attributes:
        batch: examples of a training step.
        length: tokens of an example, question and answer.
        answer: tokens of it that the loss is on, or that are generated.
        prefix: tokens that stand in front of all examples, a soft prompt not counted.
        max_concurrent_sequences: that are decoded at the same time.
        candidates: of one question alone, where no more sequences than these are decoded.
    """

    batch: int = 32
    length: int = 256
    answer: int = 128
    prefix: int = 0
    max_concurrent_sequences: int = 128
    candidates: int | None = None


@dataclass(frozen=True)
class Program:
    """A step that can be compiled, and what the device holds while it runs.

    Attributes:
        held: what the step reads or leaves behind, by part; of a part with a "/" the dtype stays
            as it is, the others are in that of the frozen weights.
        beside: what else is there meanwhile, by part.
        within: parts that exist inside the step only; the compiler counts them as temporary.
        lower: to ``jax.stages.Lowered``; None, where nothing is compiled.
    """

    name: str
    held: dict[str, Tree]
    lower: Callable[[], Any] | None = None
    beside: dict[str, Tree] = field(default_factory=dict)
    within: dict[str, Tree] = field(default_factory=dict)


Build = Callable[[DecoderConfig], list[Program]]  # of a decoder of this shape


def build(method: Method, work: Workload, dtype: Any, mesh: Mesh | None) -> Build:
    """The programs of a rung; they run one after the other.

    Args:
        dtype: of the frozen weights, and of the cache.
    """
    if isinstance(method, TuningMethod):
        return lambda config: [
            training(config, method, work, dtype, mesh),
            *merging(config, method, dtype, mesh),
        ]
    if isinstance(method, PromptingMethod):
        return lambda config: decoding(config, method, work, dtype, mesh)
    raise UserError(f"--method {method.name}: it neither prompts nor tunes; nothing to inspect")


@dataclass(frozen=True)
class AbstractTuning:
    """What a tuning method trains of a decoder, as shapes.

    Attributes:
        graph: of the TunedDecoder.
        trainable: float32, as training holds it.
        frozen: in the dtype that was asked for.
        replaced: the part of ``trainable`` that the decoder has itself; the original stays.
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
    """Asks a tuning method, on abstract arrays, what it adds and what it trains.

    Args:
        dtype: of the frozen parameters.
    """
    filters: list[Any] = []

    def make() -> TunedDecoder:
        tuned = method.add_modules(Decoder(config, rngs=abstract_rngs()), abstract_rngs())
        filters.append(method.trainable_filter(tuned))
        return tuned

    tuned = nnx.eval_shape(make)
    graph, trainable, frozen = nnx.split(tuned, filters[0], ...)  # type: ignore[misc]
    own = {("decoder", *path) for path in get_parameters(abstract_decoder(config))}
    trained = nnx.to_flat_state(trainable)
    added = [path for path, _ in trained if path not in own]
    return AbstractTuning(
        graph,
        trainable,
        cast(frozen, dtype),
        nnx.from_flat_state([(path, leaf) for path, leaf in trained if path in own]),
        tuned.soft_prompt_length,
        tuned.ensemble,
        any(path[0] == "decoder" for path in added),
    )


def training(
    config: DecoderConfig, method: TuningMethod, work: Workload, dtype: Any, mesh: Mesh | None
) -> Program:
    """The training step, as the trainer makes it.

    Raises:
        UserError: the examples do not fit the context, or do not reach all devices.
    """
    traced = trace_tuning(config, method, dtype)
    prompt_prefix = work.prefix + traced.soft_prompt_length
    if prompt_prefix + work.length > config.context_length:
        raise UserError(
            f"{method.name}: {prompt_prefix} tokens in front and {work.length} of an example are "
            f"{prompt_prefix + work.length}; the context holds {config.context_length}"
        )
    settings = settled(method.training, mesh)
    batch = packed(work, settings, mesh)
    update = make_optimizer(settings)
    trainable, frozen = (placed(state, mesh) for state in (traced.trainable, traced.frozen))
    kept = frozen
    if settings.frozen_dtype is not None:
        prepared = jax.eval_shape(partial(prepare_frozen, config=settings), frozen)
        frozen = jax.tree.map(lambda leaf, loaded: at(leaf, loaded.sharding), prepared, kept)
    ensemble = bool(traced.ensemble)
    begun = jax.eval_shape(partial(init_state, update, ensemble=ensemble), trainable)
    slots = follow(begun.opt_state, trainable, mesh)
    state, tokens = TrainState(trainable, slots), anywhere(np.zeros(work.prefix, np.int32), mesh)
    # compiled when it is lowered
    step: Callable[[], Any] = partial(make_step, traced.graph, update, settings, ensemble=ensemble)
    beside: dict[str, Tree] = {}
    if traced.replaced:
        beside["original"] = cast(placed(traced.replaced, mesh), dtype)
    if kept is not frozen:
        beside["original/frozen"] = kept
    if settings.validate_every:
        beside["best/step"] = trainable
    if platform_of(mesh) == "cpu" and nbytes(state) <= MAX_CHECKPOINT_COPY_BYTES:
        beside["checkpoint/copy"] = state
    return Program(
        "training step",
        held={
            "parameters": frozen,
            "parameters/trained": trainable,
            "optimizer/state": slots,
            "batch/examples": (batch, tokens),
        },
        lower=lambda: step().lower(state, frozen, batch, tokens),
        beside=beside,
        within={"gradients": trainable},
    )


def settled(config: TrainingConfig, mesh: Mesh | None) -> TrainingConfig:
    """The options of a training with those decided that depend on where it runs."""
    decided: dict[str, Any] = {"gradient_accumulation_steps": choose_num_microbatches(config, mesh)}
    if config.compute_dtype == "auto":
        decided["compute_dtype"] = "float32" if platform_of(mesh) == "cpu" else "bfloat16"
    return config.model_copy(update=decided)


def merging(
    config: DecoderConfig, method: TuningMethod, dtype: Any, mesh: Mesh | None
) -> list[Program]:
    """After the training: changed copies of frozen parameters beside the originals, if any."""
    traced = trace_tuning(config, method, dtype)
    trained = [tuple(path) for path, _ in nnx.to_flat_state(traced.trainable)]
    paths = method.merged_paths(trained)
    if not paths:
        return []
    frozen = dict(nnx.to_flat_state(placed(traced.frozen, mesh)))
    merged = [frozen[path] for path in sorted(paths, key=str)]
    return [Program("merging", {"parameters": list(frozen.values()), "merged": merged})]


def packed(work: Workload, config: TrainingConfig, mesh: Mesh | None) -> Tree:
    """A batch of such examples, in the shape that the trainer would give it, where it puts it."""
    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    example = TrainingExample("", (0,) * work.length, work.length - work.answer)
    make = partial(
        Batches,
        [example] * work.batch,
        work.batch,
        1,
        seed=0,
        row_length=config.row_length,
        num_microbatches=config.gradient_accumulation_steps,
        packing=config.packing,
    )
    batches = make()
    shape, microbatches = batches.shape, batches.num_microbatches
    if shape.rows < ways and mesh is not None:
        of_part = f" in each of {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"batch: {work.batch} examples of {work.length} tokens pack into {shape.rows} rows of "
            f"{shape.row_length}{of_part}, but data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']} makes {ways} devices that share the rows; "
            f"expected at least {ways * microbatches * (shape.row_length // work.length)} examples"
        )
    batch = next(make(row_multiple=ways))
    if mesh is None:
        return anywhere(batch, None)
    return jax.tree.map(at, batch, batch_shardings(batch, mesh))


def decoding(
    config: DecoderConfig, method: PromptingMethod, work: Workload, dtype: Any, mesh: Mesh | None
) -> list[Program]:
    """Prefix and questions encoded, then slots decoded, as the engine does it.

    Raises:
        UserError: prefix, question and answer do not fit the context.
    """
    if work.prefix + work.length > config.context_length:
        raise UserError(
            f"{method.name}: {work.prefix} tokens in front and {work.length} of an example are "
            f"{work.prefix + work.length}; the context holds {config.context_length}"
        )
    graph, weights = nnx.split(abstract_decoder(config))
    weights = placed(cast(weights, dtype), mesh)
    count = slot_count(work, mesh)
    breadth = shapes.count_batches_at_once(count) if method.stops_early else 1
    held: dict[str, Tree] = {"parameters": weights}
    programs = []

    padded = shapes.pad_prefix(work.prefix)
    width = config.embed_dim + config.num_layers * config.per_layer_embedding_dim
    embeddings = anywhere(jax.ShapeDtypeStruct((padded, width), dtype), mesh)
    prompt_prefix = (embeddings, anywhere(np.int32(0), mesh))
    whole = jax.eval_shape(partial(steps.encode_prompt_prefix, graph), weights, *prompt_prefix)
    one: Any = np.zeros(1, np.int32)
    columns: Any = np.zeros(padded, np.int32)
    prefix = anywhere(PrefixCaches(whole.layers, one, columns, columns), mesh)
    held |= {"prefix": prefix}
    if padded:
        lower = partial(steps.encode_prompt_prefix.lower, graph, weights, *prompt_prefix)
        programs.append(Program("prefix", dict(held), lower))

    def questions(many: int, columns: int) -> tuple[Tree, Tree]:
        """Which prefix, tokens and lengths of questions; and their keys and values."""
        numbers = np.zeros(many, np.int32)
        given = anywhere((numbers, np.zeros((many, columns), np.int32), numbers), mesh)
        return given, jax.eval_shape(
            partial(steps.encode_questions, graph), weights, prefix, *given
        )

    cache = rows(questions(count, shapes.pad_cache(work.length))[1], mesh)
    held |= {"cache": cache}
    width = shapes.pad_question(work.length - work.answer)
    many = min(shapes.MAX_QUESTION_ROWS, count if work.candidates is None else 1)
    given, encoded = questions(many, width)
    kept = anywhere(questions(many * breadth, width)[1], mesh)
    programs.append(
        Program(
            "questions",
            {"parameters": weights, "prefix": prefix, "questions": anywhere(encoded, mesh)},
            partial(steps.encode_questions.lower, graph, weights, prefix, *given),
            beside={"cache": cache} | ({"earlier questions": kept} if count > many else {}),
        )
    )
    sampling = method.generation_config().sampling
    penalty = sampling.repetition_penalty != 1
    state = rows(steps.SlotState.idle(count, config.vocab_size if penalty else 0), mesh)
    seed = anywhere(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    given = (graph, sampling, config.eos_ids, weights, prefix, cache, state, seed)
    programs.append(
        Program(
            "decoding step",
            {**held, "batch/slots": state},
            partial(steps.decode_chunk.lower, *given),
            beside={"questions": kept},
        )
    )
    return programs


def slot_count(work: Workload, mesh: Mesh | None) -> int:
    """How many slots the engine takes: no more than the candidates of the one question, if said."""
    count = work.max_concurrent_sequences
    if work.candidates is not None:
        count = min(count, work.candidates)
    return count if mesh is None else round_up(count, mesh.shape["data"] * mesh.shape["fsdp"])


def nbytes(tree: Tree) -> int:
    """Bytes that one device holds of these abstract arrays."""

    def one(leaf: Any) -> int:
        place = getattr(leaf, "sharding", None)
        shape = leaf.shape if place is None else place.shard_shape(leaf.shape)
        return math.prod(shape) * itemsize(leaf.dtype)

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))


def itemsize(dtype: Any) -> int:
    """Bytes of one element; a random key is two words."""
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def cast(tree: Tree, dtype: Any) -> Tree:
    """Floating-point leaves in another dtype."""

    def one(leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding) if floating else leaf

    return jax.tree.map(one, tree)


def at(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    """A leaf's shape and dtype, in a place."""
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=place)


def placed(state: nnx.State, mesh: Mesh | None) -> Tree:
    """Parameters, where the table of logical axes puts them."""
    return state if mesh is None else jax.tree.map(at, state, state_shardings(state, mesh))


def anywhere(tree: Tree, mesh: Mesh | None) -> Tree:
    """A whole copy on each device."""
    place = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: at(leaf, place), tree)


def rows(tree: Tree, mesh: Mesh | None) -> Tree:
    """The first axis spread over the mesh."""
    return jax.tree.map(lambda leaf: at(leaf, None if mesh is None else batch_sharding(mesh)), tree)


def follow(slots: Tree, trainable: Tree, mesh: Mesh | None) -> Tree:
    """The optimizer's slots: each as its parameter lies, counters everywhere."""
    if mesh is None:
        return slots
    places: dict[Any, Any] = dict(jax.tree_util.tree_flatten_with_path(trainable)[0])
    everywhere = NamedSharding(mesh, PartitionSpec())
    longest = max(map(len, places))

    def place(path: Any, leaf: Any) -> Any:
        ends = (path[-length:] for length in range(longest, 0, -1))
        of = next((places[end] for end in ends if end in places), leaf)
        same = of is not leaf and of.shape == leaf.shape
        return at(leaf, of.sharding if same else everywhere)

    return jax.tree_util.tree_map_with_path(place, slots)
