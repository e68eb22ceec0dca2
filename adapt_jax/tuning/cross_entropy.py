"""Next-token cross-entropy whose logits never exist all at once.

Axes: M targets, D embedding, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.decoder import Decoder

Sums = tuple[Float[Array, ""], Float[Array, ""]]
STRIDE = 64  # a chunk of targets is a multiple of this, so that devices can share it


@dataclass(frozen=True)
class Objective:
    """What is minimised beside the cross-entropy; nothing, by default.

    ``label_smoothing`` e takes the target distribution to be 1 - e on the target and e spread over
    the whole vocabulary (1512.00567, section 7); ``z_loss`` adds that much times the square of the
    logarithm of the softmax's denominator (2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = Objective()


def cross_entropy(
    decoder: Decoder,
    hidden: Float[Array, "M D"],
    ids: Int[Array, " M"],
    weights: Float[Array, " M"],
    objective: Objective = PLAIN,
) -> Sums:
    """Weighted sums over the targets: of the objective in nats, and of those ranked first.

    Logits are made for a chunk of targets at a time. Where gradients are taken they are made in
    the same pass, while a chunk's probabilities are at hand: nothing of size [M, V] is kept, and
    nothing is computed twice. A parameter of the output that is frozen gets no gradient.
    """
    name = "embedding" if decoder.output is None else "output"
    graph, head, rest = nnx.split(decoder, lambda path, _: path[0] == name, ...)  # type: ignore[misc]
    absent = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), rest)

    def logits(head: Any, hidden: Array) -> Array:
        model: Decoder = nnx.merge(graph, head, absent)
        return model.logits(hidden)

    return _summed(logits, objective, head, hidden, ids, weights)


def _size(targets: int, vocabulary: int) -> int:
    """Targets of a chunk: its logits take 48 MiB on a CPU, where fewer rows make slower products
    and more leave the cache for longer; elsewhere 256 MiB."""
    room = 3 * 2**22 if jax.default_backend() == "cpu" else 2**26
    most = max(room // vocabulary // STRIDE, 1) * STRIDE
    chunks = -(-targets // most)
    return -(-targets // chunks // STRIDE) * STRIDE


def _chunked(x: Array, size: int) -> Array:
    """[M, ...] -> [chunks, size, ...]; targets that follow each other go to different chunks.

    So a chunk is shared by all devices where the targets are.
    """
    chunks = -(-x.shape[0] // size)
    padded = jnp.pad(x, [(0, chunks * size - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
    return padded.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)


def _score(
    logits: Float[Array, "m V"],
    ids: Int[Array, " m"],
    weights: Float[Array, " m"],
    objective: Objective,
) -> tuple[Array, Array, Float[Array, "m V"]]:
    """The two sums of a chunk, and the gradient of the first with respect to the logits."""
    top = logits.max(axis=-1)
    powers = jnp.exp(logits - top[:, None])
    total = powers.sum(axis=-1)
    log_total = jnp.log(total) + top
    aimed = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    smooth, z_loss = objective.label_smoothing, objective.z_loss
    nats = log_total - (1 - smooth) * aimed
    if smooth:
        nats -= smooth * logits.mean(axis=-1)
    nats += z_loss * log_total**2
    right = (aimed >= top) * weights
    pull = (weights * (1 + 2 * z_loss * log_total) / total)[:, None] * powers
    here = jnp.arange(logits.shape[-1]) == ids[:, None]
    pull -= jnp.where(here, ((1 - smooth) * weights)[:, None], 0)
    if smooth:
        pull -= (smooth / logits.shape[-1] * weights)[:, None]
    return (nats * weights).sum(), right.sum(), pull


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summed(
    logits: Callable[[Any, Array], Array],
    objective: Objective,
    head: Any,
    hidden: Array,
    ids: Array,
    weights: Array,
) -> Sums:
    def chunk(sums: Sums, part: tuple[Array, ...]) -> tuple[Sums, None]:
        nats, right, _ = _score(logits(head, part[0]), part[1], part[2], objective)
        return (sums[0] + nats, sums[1] + right), None

    size = _size(ids.shape[0], _vocabulary(logits, head, hidden))
    parts = tuple(_chunked(x, size) for x in (hidden, ids, weights))
    return jax.lax.scan(chunk, (jnp.zeros(()), jnp.zeros(())), parts)[0]


def _forward(
    logits: Callable[[Any, Array], Array],
    objective: Objective,
    head: Any,
    hidden: Any,
    ids: Any,
    weights: Any,
) -> tuple[Sums, Any]:
    leaves, tree = jax.tree.flatten(head)
    learns = [leaf.perturbed for leaf in leaves]
    values = [leaf.value for leaf in leaves]
    learned = [value for value, yes in zip(values, learns, strict=True) if yes]
    hidden, ids, weights = hidden.value, ids.value, weights.value

    def of_learned(learned: list[Array], hidden: Array) -> Array:
        new = iter(learned)
        both = [next(new) if yes else value for value, yes in zip(values, learns, strict=True)]
        return logits(jax.tree.unflatten(tree, both), hidden)

    def chunk(carry: Any, part: tuple[Array, ...]) -> tuple[Any, Array]:
        nats, right, gained = carry
        scores, back = jax.vjp(of_learned, learned, part[0])
        more, hits, pull = _score(scores, part[1], part[2], objective)
        for_learned, for_hidden = back(pull)
        gained = jax.tree.map(jnp.add, gained, for_learned)
        return (nats + more, right + hits, gained), for_hidden

    size = _size(ids.shape[0], _vocabulary(logits, jax.tree.unflatten(tree, values), hidden))
    parts = tuple(_chunked(x, size) for x in (hidden, ids, weights))
    start: Any = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, learned))
    (nats, right, gained), for_hidden = jax.lax.scan(chunk, start, parts)
    for_hidden = for_hidden.swapaxes(0, 1).reshape(-1, hidden.shape[-1])[: hidden.shape[0]]
    found = iter(gained)
    for_head = jax.tree.unflatten(tree, [next(found) if yes else None for yes in learns])
    return (nats, right), (for_head, for_hidden)


def _backward(
    logits: Callable[[Any, Array], Array], objective: Objective, kept: Any, pulls: Any
) -> tuple[Any, Any, None, None]:
    return (
        *jax.tree.map(lambda gradient: gradient * pulls[0].astype(gradient.dtype), kept),
        None,
        None,
    )


def _vocabulary(logits: Callable[[Any, Array], Array], head: Any, hidden: Array) -> int:
    return jax.eval_shape(logits, head, hidden).shape[-1]


_summed.defvjp(_forward, _backward, symbolic_zeros=True)
