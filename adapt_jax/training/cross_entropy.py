"""Next-token cross-entropy whose logits never exist all at once.

Axes: M targets, D embedding, V vocabulary; m targets of a chunk, v entries of a block of V.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.sharding import LOGICAL_AXIS_RULES
from adapt_jax.training.chunk_loss import (
    ALL_GRADS,
    HIDDEN_GRADS,
    NO_GRADS,
    PLAIN,
    ChunkSizes,
    Head,
    Objective,
    sum_chunk,
)
from adapt_jax.utils.cpu import (
    MAX_BLOCK_ENTRIES,
    MAX_CHUNK_TARGETS,
    MAX_WAITING_NUMBERS,
    run_by_platform,
)

__all__ = ["cross_entropy"]

Sums = tuple[Float[Array, ""], Float[Array, ""]]
ONE_CPU = ChunkSizes(MAX_CHUNK_TARGETS, MAX_BLOCK_ENTRIES, MAX_WAITING_NUMBERS)
OTHER = ChunkSizes(2**26, 2**26, 2**26)


def cross_entropy(
    decoder: Decoder,
    hidden: Float[Array, "M D"],
    ids: Int[Array, " M"],
    weights: Float[Array, " M"],
    objective: Objective = PLAIN,
    mesh: Mesh | None = None,
) -> Sums:
    """Weighted sums over the targets: of the objective in nats, and of those ranked first.

    Logits are made for a chunk of targets at a time, on a CPU for a block of the vocabulary at a
    time. Gradients are made in the same pass, while the powers exp(logit) are at hand: as in
    attention (2205.14135, section 3.1) they are summed before the softmax's denominator is known,
    and divided by it in the end. Nothing of size [M, V] is kept, and no product is computed twice
    but that of capped logits (Gemma 2) whose parameters are trained. Parameters of the output that
    are frozen get no gradient.

    Args:
        weights: a target of weight 0 is none.
        mesh: devices that share the targets, which lie on the device that has their row. Each sums
            over its own, so the output's parameters are gathered once and their gradients reduced
            once. None: one device, or XLA decides.
    """
    name = "embedding" if decoder.output is None else "output"
    graph, params, rest = nnx.split(decoder, lambda path, _: path[0] == name, ...)  # type: ignore[misc]
    absent = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), rest)

    def logits(params: Any, hidden: Array) -> Array:
        model: Decoder = nnx.merge(graph, params, absent)
        return model.logits(hidden)

    return _weighted_sums(Head(logits), objective, mesh, params, hidden, ids, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _weighted_sums(
    head: Head,
    objective: Objective,
    mesh: Mesh | None,
    params: Any,
    hidden: Array,
    ids: Array,
    weights: Array,
) -> Sums:
    return _sum_by_platform(head, objective, mesh, NO_GRADS, params, hidden, ids, weights)[0]


def _forward(
    head: Head,
    objective: Objective,
    mesh: Mesh | None,
    params: Any,
    hidden: Any,
    ids: Any,
    weights: Any,
) -> tuple[Sums, Any]:
    trains_output = any(leaf.perturbed for leaf in jax.tree.leaves(params))
    values = jax.tree.map(lambda leaf: leaf.value, (params, hidden, ids, weights))
    needed = ALL_GRADS if trains_output else HIDDEN_GRADS
    return _sum_by_platform(head, objective, mesh, needed, *values)


def _backward(
    head: Head, objective: Objective, mesh: Mesh | None, grads: Any, cotangents: Any
) -> tuple[Any, ...]:
    scaled = jax.tree.map(lambda grad: grad * cotangents[0].astype(grad.dtype), grads)
    return (*scaled, None, None)


_weighted_sums.defvjp(_forward, _backward, symbolic_zeros=True)


def _sum_by_platform(
    head: Head, objective: Objective, mesh: Mesh | None, needed: str, *arrays: Any
) -> tuple[Sums, Any]:
    """The sums, and the needed gradients of the first, in the chunks that suit the platform."""
    if mesh is not None:
        return _share_targets(head, objective, mesh, needed, *arrays)
    scan = partial(_scan_chunks, head, objective, needed)
    found: tuple[Sums, Any] = run_by_platform(partial(scan, ONE_CPU), partial(scan, OTHER), *arrays)
    return found


def _share_targets(
    head: Head,
    objective: Objective,
    mesh: Mesh,
    needed: str,
    params: Any,
    hidden: Float[Array, "M D"],
    ids: Int[Array, " M"],
    weights: Float[Array, " M"],
) -> tuple[Sums, Any]:
    """Each device takes the targets of its rows; what is summed over devices is summed once."""
    axes = LOGICAL_AXIS_RULES["rows"]
    # gathered and reduced in the dtype that is computed in
    kernels = jax.tree.map(lambda leaf: leaf.astype(hidden.dtype), params)

    def sum_own(kernels: Any, hidden: Array, ids: Array, weights: Array) -> tuple[Sums, Any]:
        size = OTHER.targets_per_chunk(len(ids), head.vocabulary(kernels), needed == ALL_GRADS)
        # targets first, so that chunks of nothing else than padding can be left out
        padded = -(-len(ids) // size) * size
        order = jnp.argsort(jnp.pad(weights == 0, (0, padded - len(ids)), constant_values=True))
        order = order.reshape(-1, size).T.reshape(-1)  # as _to_chunks deals them out
        pad = lambda x: jnp.pad(x, [(0, padded - len(ids)), *[(0, 0)] * (x.ndim - 1)])[order]  # noqa: E731
        sums, grads = _scan_chunks(
            head, objective, needed, OTHER, kernels, pad(hidden), pad(ids), pad(weights),
            skips_empty=True,
        )  # fmt: skip
        sums = jax.lax.psum(sums, axes)
        if grads is None:
            return sums, None
        param_grads, hidden_grad = grads
        hidden_grad = jnp.zeros_like(hidden_grad).at[order].set(hidden_grad)[: len(ids)]
        if param_grads is not None:
            param_grads = jax.tree.map(lambda leaf: leaf.astype(hidden.dtype), param_grads)
            param_grads = jax.lax.psum(param_grads, axes)
        return sums, (param_grads, hidden_grad)

    everywhere, by_row = PartitionSpec(), PartitionSpec(axes)
    sums, grads = jax.shard_map(
        sum_own,
        mesh=mesh,
        in_specs=(everywhere, by_row, by_row, by_row),
        out_specs=(everywhere, None if needed == NO_GRADS else (everywhere, by_row)),
        axis_names=set(axes),
        check_vma=False,
    )(kernels, hidden, ids, weights)
    if grads is not None and grads[0] is not None:
        param_grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads[0], params)
        grads = (param_grads, grads[1])
    return sums, grads


def _to_chunks(x: Array, size: int) -> Array:
    """[M, ...] -> [chunks, size, ...]; targets that follow each other go to different chunks.

    So a chunk is shared by all devices where the targets are.
    """
    chunks = -(-x.shape[0] // size)
    padded = jnp.pad(x, [(0, chunks * size - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
    return padded.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)


def _scan_chunks(
    head: Head,
    objective: Objective,
    needed: str,
    sizes: ChunkSizes,
    params: Any,
    hidden: Float[Array, "M D"],
    ids: Int[Array, " M"],
    weights: Float[Array, " M"],
    *,
    skips_empty: bool = False,
) -> tuple[Sums, Any]:
    """The sums, and (param_grads or None, hidden_grad) where gradients are needed.

    Args:
        skips_empty: whether nothing is computed for a chunk whose weights are all 0.
    """
    targets, trains_output = hidden.shape[0], needed == ALL_GRADS
    size = sizes.targets_per_chunk(targets, head.vocabulary(params), trains_output)

    def add_chunk(carry: Any, chunk: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        nats, num_right, param_grads = carry

        def compute(param_grads: Any) -> Any:
            return sum_chunk(head, objective, needed, sizes, params, chunk, param_grads)

        def skip(param_grads: Any) -> Any:
            zero, of_targets = jnp.zeros(()), jnp.zeros(chunk[1].shape)
            return zero, zero, jnp.zeros_like(chunk[0]), of_targets, param_grads

        if skips_empty:
            found = jax.lax.cond(chunk[2].any(), compute, skip, param_grads)
        else:
            found = compute(param_grads)
        more_nats, more_right, hidden_grad, target_cotangent, param_grads = found
        carry = (nats + more_nats, num_right + more_right, param_grads)
        return carry, (hidden_grad, target_cotangent)

    chunks: Any = tuple(_to_chunks(x, size) for x in (hidden, ids, weights))
    param_grads = None
    if trains_output:
        param_grads = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    start: Any = (jnp.zeros(()), jnp.zeros(()), param_grads)
    (nats, num_right, param_grads), each = jax.lax.scan(add_chunk, start, chunks)
    if needed == NO_GRADS:
        return (nats, num_right), None
    # Back from chunks to [M, ...], then what goes through the targets' own logits.
    hidden_grad, target_cotangent = (
        x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:targets] for x in each
    )
    param_grads, through_targets = head.add_target_grads(
        params, hidden, ids, target_cotangent, param_grads
    )
    return (nats, num_right), (param_grads, hidden_grad + through_targets)
