"""Next-token cross-entropy whose logits never exist all at once.

Axes: M targets, D embedding, V vocabulary; m targets of a chunk, v entries of a block of V.
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
from adapt_jax.utils.cpu import run_by_platform

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


@dataclass(frozen=True)
class Room:
    """How much of [M, V] exists at once.

    On a CPU a block of the vocabulary stays in the cache between the product that makes its logits
    and the one that takes their gradient: a quarter less time.
    """

    targets: int
    entries: int  # of the vocabulary
    numbers: int  # that wait for the product which makes the gradient of the output's parameters

    def chunk(self, targets: int, vocabulary: int, waits: bool) -> int:
        """Targets of a chunk."""
        width = vocabulary if waits else min(vocabulary, self.entries)
        most = max(min(self.targets, self.numbers // width) // STRIDE, 1) * STRIDE
        chunks = -(-targets // most)
        return -(-targets // chunks // STRIDE) * STRIDE

    def block(self, vocabulary: int) -> int:
        """Entries of a block: about as many in each, so that the last repeats few."""
        blocks = -(-vocabulary // self.entries)
        return min(-(-vocabulary // blocks // STRIDE) * STRIDE, vocabulary)


ONE_CPU = Room(1024, 640, 3 * 2**22)
OTHER = Room(2**26, 2**26, 2**26)


@dataclass(frozen=True)
class Head:
    """Logits of hidden states, from parameters whose first axis is the vocabulary."""

    logits: Callable[[Any, Array], Array]

    def vocabulary(self, params: Any) -> int:
        size: int = jax.tree.leaves(params)[0].shape[0]
        return size

    def block(self, params: Any, start: Array, size: int) -> Any:
        """The parameters of ``size`` entries of the vocabulary."""
        cut = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        return jax.tree.map(cut, params)

    def of_targets(
        self,
        params: Any,
        hidden: Float[Array, "M D"],
        ids: Int[Array, " M"],
        pull: Array,
        sums: Any,
    ) -> tuple[Any, Float[Array, "M D"]]:
        """Gradients through each target's own logit: ``sums`` of parameters and more; of hidden."""
        own = jax.tree.map(lambda leaf: leaf[ids[:, None]], params)
        _, back = jax.vjp(jax.vmap(self.logits), own, hidden)
        for_own, for_hidden = back(pull[:, None])
        if sums is not None:
            sums = jax.tree.map(lambda sum, more: sum.at[ids[:, None]].add(more), sums, for_own)
        return sums, for_hidden


def cross_entropy(
    decoder: Decoder,
    hidden: Float[Array, "M D"],
    ids: Int[Array, " M"],
    weights: Float[Array, " M"],
    objective: Objective = PLAIN,
) -> Sums:
    """Weighted sums over the targets: of the objective in nats, and of those ranked first.

    Logits are made for a chunk of targets at a time, on a CPU for a block of the vocabulary at a
    time. Gradients are made in the same pass, while the powers are at hand: as in attention
    (2205.14135, section 3.1) they are summed before the softmax's denominator is known, and
    divided by it in the end. Nothing of size [M, V] is kept, and no product is computed twice but
    that of capped logits (Gemma 2) whose parameters are trained. Parameters of the output that are
    frozen get no gradient.
    """
    name = "embedding" if decoder.output is None else "output"
    graph, params, rest = nnx.split(decoder, lambda path, _: path[0] == name, ...)  # type: ignore[misc]
    absent = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), rest)

    def logits(params: Any, hidden: Array) -> Array:
        model: Decoder = nnx.merge(graph, params, absent)
        return model.logits(hidden)

    return _summed(Head(logits), objective, params, hidden, ids, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summed(
    head: Head, objective: Objective, params: Any, hidden: Array, ids: Array, weights: Array
) -> Sums:
    return _anywhere(head, objective, "", params, hidden, ids, weights)[0]


def _forward(
    head: Head, objective: Objective, params: Any, hidden: Any, ids: Any, weights: Any
) -> tuple[Sums, Any]:
    wanted = "both" if any(leaf.perturbed for leaf in jax.tree.leaves(params)) else "hidden"
    values = jax.tree.map(lambda leaf: leaf.value, (params, hidden, ids, weights))
    return _anywhere(head, objective, wanted, *values)


def _backward(head: Head, objective: Objective, kept: Any, pulls: Any) -> tuple[Any, ...]:
    scaled = jax.tree.map(lambda gradient: gradient * pulls[0].astype(gradient.dtype), kept)
    return (*scaled, None, None)


_summed.defvjp(_forward, _backward, symbolic_zeros=True)


def _anywhere(head: Head, objective: Objective, wanted: str, *arrays: Any) -> tuple[Sums, Any]:
    """The sums, and the wanted gradients of the first."""
    within = partial(_scored, head, objective, wanted)
    found: tuple[Sums, Any] = run_by_platform(
        partial(within, ONE_CPU), partial(within, OTHER), *arrays
    )
    return found


def _chunked(x: Array, size: int) -> Array:
    """[M, ...] -> [chunks, size, ...]; targets that follow each other go to different chunks.

    So a chunk is shared by all devices where the targets are.
    """
    chunks = -(-x.shape[0] // size)
    padded = jnp.pad(x, [(0, chunks * size - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
    return padded.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)


def _scored(
    head: Head,
    objective: Objective,
    wanted: str,
    room: Room,
    params: Any,
    hidden: Float[Array, "M D"],
    ids: Int[Array, " M"],
    weights: Float[Array, " M"],
) -> tuple[Sums, Any]:
    """The sums, and gradients for the parameters (or None) and the hidden states, if wanted."""
    targets, learns = hidden.shape[0], wanted == "both"
    size = room.chunk(targets, head.vocabulary(params), learns)

    def chunk(carry: Any, part: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        nats, right, gained = carry
        found = _chunk(head, objective, wanted, room, params, part, gained)
        more, hits, for_hidden, at_aim, gained = found
        return (nats + more, right + hits, gained), (for_hidden, at_aim)

    parts: Any = tuple(_chunked(x, size) for x in (hidden, ids, weights))
    nothing = jax.tree.map(jnp.zeros_like, params) if learns else None
    start: Any = (jnp.zeros(()), jnp.zeros(()), nothing)
    (nats, right, gained), each = jax.lax.scan(chunk, start, parts)
    if not wanted:
        return (nats, right), None
    for_hidden, at_aim = (x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:targets] for x in each)
    gained, aimed = head.of_targets(params, hidden, ids, at_aim, gained)
    return (nats, right), (gained, for_hidden + aimed)


def _chunk(
    head: Head,
    objective: Objective,
    wanted: str,
    room: Room,
    params: Any,
    part: tuple[Float[Array, "m D"], Int[Array, " m"], Float[Array, " m"]],
    gained: Any,
) -> tuple[Array, Array, Any, Any, Any]:
    """The two sums of a chunk, the gradient of the first with respect to the hidden states but for
    the targets' own logits, the one with respect to these, and ``gained`` with what is added."""
    hidden, ids, weights = part
    vocabulary = head.vocabulary(params)
    size = room.block(vocabulary)
    smooth, z_loss = objective.label_smoothing, objective.z_loss

    def block(carry: Any, first: Array) -> tuple[Any, Any]:
        """Adds the entries from ``first``; the last block begins before it, and skips those."""
        top, total, aimed, level, pulled, evenly = carry
        start = jnp.minimum(first, vocabulary - size)
        here = head.block(params, start, size)
        scores, back = jax.vjp(partial(head.logits, here), hidden)
        new = jnp.broadcast_to(start + jnp.arange(size) >= first, scores.shape)
        if vocabulary % size:
            scores = jnp.where(new, scores, -jnp.inf)
        higher = jnp.maximum(top, scores.max(axis=-1))
        less, at = jnp.exp(top - higher), (ids - start)[:, None]
        # a target's own power is added apart: near 1, too little would be left of 1 less it
        powers = jnp.where(jnp.arange(size) == at, 0, jnp.exp(scores - higher[:, None]))
        total = total * less + powers.sum(axis=-1)
        own = jnp.take_along_axis(scores, jnp.clip(at, 0, size - 1), axis=-1)
        aimed = jnp.where((ids >= first) & (at[:, 0] < size), own[:, 0], aimed)
        if wanted:
            pulled = pulled * less[:, None] + back(powers)[0]
        if smooth:
            level += jnp.where(new, scores, 0).sum(axis=-1)
            evenly += back(new.astype(scores.dtype))[0]
        kept = (first, powers, higher) if learns else None
        return (higher, total, aimed, level, pulled, evenly), kept

    learns = wanted == "both"
    none, zeros, flat = jnp.full(ids.shape, -jnp.inf), jnp.zeros(ids.shape), jnp.zeros(hidden.shape)
    begin = (none, zeros, none, zeros, flat, flat)
    firsts = jnp.arange(0, vocabulary, size)
    (top, total, aimed, level, pulled, evenly), kept = jax.lax.scan(block, begin, firsts)
    own = jnp.exp(aimed - top)
    total += own
    log_total = jnp.log(total) + top
    nats = log_total - (1 - smooth) * aimed - smooth / vocabulary * level + z_loss * log_total**2
    right = (aimed >= top) * weights
    share = weights * (1 + 2 * z_loss * log_total) / total
    even = smooth / vocabulary * weights
    at_aim = share * own - (1 - smooth) * weights
    for_hidden = (share[:, None] * pulled - even[:, None] * evenly).astype(hidden.dtype)

    def gain(gained: Any, kept: tuple[Array, Array, Array]) -> tuple[Any, None]:
        first, powers, higher = kept
        start = jnp.minimum(first, vocabulary - size)
        here = head.block(params, start, size)
        pull = powers * (share * jnp.exp(higher - top))[:, None]
        if smooth:
            pull -= jnp.where(start + jnp.arange(size) >= first, even[:, None], 0)
        _, back = jax.vjp(lambda here: head.logits(here, hidden), here)
        more = jax.tree.map(jnp.add, head.block(gained, start, size), back(pull)[0])
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, gained, more), None

    if learns:
        gained, _ = jax.lax.scan(gain, gained, kept)
    return (nats * weights).sum(), right.sum(), for_hidden, at_aim, gained
