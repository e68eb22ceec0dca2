"""The loss of a chunk of targets, and its gradients, over blocks of the vocabulary.

Axes: M targets, D embedding, V vocabulary; m targets of a chunk, v entries of a block of V.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = [
    "ALL_GRADS",
    "HIDDEN_GRADS",
    "NO_GRADS",
    "PLAIN",
    "ChunkSizes",
    "Head",
    "Objective",
    "sum_chunk",
]

STRIDE = 64  # a chunk of targets is a multiple of this, so that devices can share it
# The gradients that are needed: none, those of the hidden states, or those of the output's
# parameters too.
NO_GRADS, HIDDEN_GRADS, ALL_GRADS = "none", "hidden", "all"


@dataclass(frozen=True)
class Objective:
    """Terms that are minimised together with the cross-entropy; none, by default.

    ``label_smoothing`` e takes the target distribution to be 1 - e on the target and e spread over
    the whole vocabulary (1512.00567, section 7); ``z_loss`` adds that much times the square of the
    logarithm of the softmax's denominator (2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = Objective()


@dataclass(frozen=True)
class ChunkSizes:
    """How much of [M, V] exists at once.

    ``max_waiting`` bounds the numbers [m, V] that are kept until the gradient of the output's
    parameters is made from them.
    """

    max_targets: int
    max_entries: int
    max_waiting: int

    def targets_per_chunk(self, targets: int, vocabulary: int, trains_output: bool) -> int:
        """m, about the same for all chunks."""
        width = vocabulary if trains_output else min(vocabulary, self.max_entries)
        most = max(min(self.max_targets, self.max_waiting // width) // STRIDE, 1) * STRIDE
        chunks = -(-targets // most)
        return -(-targets // chunks // STRIDE) * STRIDE

    def entries_per_block(self, vocabulary: int) -> int:
        """v, about the same for all blocks, so that the last repeats few."""
        blocks = -(-vocabulary // self.max_entries)
        return min(-(-vocabulary // blocks // STRIDE) * STRIDE, vocabulary)


@dataclass(frozen=True)
class Head:
    """Logits of hidden states, from parameters whose first axis is the vocabulary."""

    logits: Callable[[Any, Array], Array]

    def vocabulary(self, params: Any) -> int:
        """V."""
        size: int = jax.tree.leaves(params)[0].shape[0]
        return size

    def block(self, params: Any, start: Array, size: int) -> Any:
        """The parameters of ``size`` entries of the vocabulary."""
        cut = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        return jax.tree.map(cut, params)

    def add_target_grads(
        self,
        params: Any,
        hidden: Float[Array, "M D"],
        ids: Int[Array, " M"],
        cotangent: Float[Array, " M"],
        param_grads: Any,
    ) -> tuple[Any, Float[Array, "M D"]]:
        """Back-propagates through each target's own logit.

        Returns:
            ``param_grads``, unless None, with what is added to them; gradients of ``hidden``.
        """
        target_params = jax.tree.map(lambda leaf: leaf[ids[:, None]], params)
        _, back_propagate = jax.vjp(jax.vmap(self.logits), target_params, hidden)
        target_grads, hidden_grad = back_propagate(cotangent[:, None])
        if param_grads is not None:
            add = lambda total, more: total.at[ids[:, None]].add(more)  # noqa: E731
            param_grads = jax.tree.map(add, param_grads, target_grads)
        return param_grads, hidden_grad


class _Softmax(NamedTuple):
    """Running sums of an online softmax over the vocabulary; powers are exp(logit - highest)."""

    highest: Float[Array, " m"]  # logit so far
    total: Float[Array, " m"]  # of the powers, without the target's
    target_logit: Float[Array, " m"]
    power_grad: Float[Array, "m D"]  # of the hidden states: the sum of power times logit gradient
    logit_sum: Float[Array, " m"]
    uniform_grad: Float[Array, "m D"]  # of the hidden states: that of ``logit_sum``


def _online_softmax(
    head: Head,
    objective: Objective,
    needed: str,
    size: int,
    params: Any,
    hidden: Float[Array, "m D"],
    ids: Int[Array, " m"],
) -> tuple[_Softmax, Any]:
    """The sums over all blocks of ``size`` entries; and (first, powers, highest) of each block
    where the output's parameters need gradients."""
    vocabulary = head.vocabulary(params)

    def add_block(sums: _Softmax, first: Array) -> tuple[_Softmax, Any]:
        # The last block begins before ``first``, so that it is full; what it repeats is masked.
        start = jnp.minimum(first, vocabulary - size)
        block_params = head.block(params, start, size)
        logits, back_propagate = jax.vjp(partial(head.logits, block_params), hidden)
        is_new = jnp.broadcast_to(start + jnp.arange(size) >= first, logits.shape)
        if vocabulary % size:
            logits = jnp.where(is_new, logits, -jnp.inf)
        # What was summed is scaled to the new highest logit.
        highest = jnp.maximum(sums.highest, logits.max(axis=-1))
        rescale, target_place = jnp.exp(sums.highest - highest), (ids - start)[:, None]
        # A target's own power is added apart: near 1, too little would be left of 1 less it.
        is_target = jnp.arange(size) == target_place
        powers = jnp.where(is_target, 0, jnp.exp(logits - highest[:, None]))
        total = sums.total * rescale + powers.sum(axis=-1)
        own = jnp.take_along_axis(logits, jnp.clip(target_place, 0, size - 1), axis=-1)
        in_block = (ids >= first) & (target_place[:, 0] < size)
        target_logit = jnp.where(in_block, own[:, 0], sums.target_logit)
        power_grad, logit_sum, uniform_grad = sums[3:]
        if needed != NO_GRADS:
            power_grad = power_grad * rescale[:, None] + back_propagate(powers)[0]
        if objective.label_smoothing:
            logit_sum += jnp.where(is_new, logits, 0).sum(axis=-1)
            uniform_grad += back_propagate(is_new.astype(logits.dtype))[0]
        sums = _Softmax(highest, total, target_logit, power_grad, logit_sum, uniform_grad)
        return sums, (first, powers, highest) if needed == ALL_GRADS else None

    lowest, zeros = jnp.full(ids.shape, -jnp.inf), jnp.zeros(ids.shape)
    no_grad = jnp.zeros(hidden.shape)
    start = _Softmax(lowest, zeros, lowest, no_grad, zeros, no_grad)
    sums, blocks = jax.lax.scan(add_block, start, jnp.arange(0, vocabulary, size))
    return sums, blocks


def sum_chunk(
    head: Head,
    objective: Objective,
    needed: str,
    sizes: ChunkSizes,
    params: Any,
    chunk: tuple[Float[Array, "m D"], Int[Array, " m"], Float[Array, " m"]],
    param_grads: Any,
) -> tuple[Array, Array, Any, Any, Any]:
    """Loss and gradients of a chunk of targets.

    Returns:
        the two sums; the gradient of the first with respect to the hidden states, except for what
        goes through the targets' own logits; the one with respect to these logits; and
        ``param_grads`` with what is added to them.
    """
    hidden, ids, weights = chunk
    vocabulary = head.vocabulary(params)
    size = sizes.entries_per_block(vocabulary)
    smoothing, z_loss = objective.label_smoothing, objective.z_loss
    sums, blocks = _online_softmax(head, objective, needed, size, params, hidden, ids)

    # The softmax's denominator with the target's own power, and the loss.
    target_power = jnp.exp(sums.target_logit - sums.highest)
    total = sums.total + target_power
    log_total = jnp.log(total) + sums.highest
    uniform_part = smoothing / vocabulary * sums.logit_sum
    nats = log_total - (1 - smoothing) * sums.target_logit - uniform_part + z_loss * log_total**2
    is_right = (sums.target_logit >= sums.highest) * weights

    # d nats / d logit = power_weight * power - uniform_weight - (1 - smoothing) [target].
    power_weight = weights * (1 + 2 * z_loss * log_total) / total
    uniform_weight = smoothing / vocabulary * weights
    target_cotangent = power_weight * target_power - (1 - smoothing) * weights
    hidden_grad = (
        power_weight[:, None] * sums.power_grad - uniform_weight[:, None] * sums.uniform_grad
    ).astype(hidden.dtype)

    def add_param_grads(param_grads: Any, block: tuple[Array, Array, Array]) -> tuple[Any, None]:
        first, powers, highest = block
        start = jnp.minimum(first, vocabulary - size)
        block_params = head.block(params, start, size)
        # The powers of a block are relative to the highest logit when it was summed.
        cotangent = powers * (power_weight * jnp.exp(highest - sums.highest))[:, None]
        if smoothing:
            is_new = start + jnp.arange(size) >= first
            cotangent -= jnp.where(is_new, uniform_weight[:, None], 0)
        _, back_propagate = jax.vjp(lambda block: head.logits(block, hidden), block_params)
        earlier = head.block(param_grads, start, size)
        new = jax.tree.map(jnp.add, earlier, back_propagate(cotangent)[0])
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, param_grads, new), None

    if needed == ALL_GRADS:
        param_grads, _ = jax.lax.scan(add_param_grads, param_grads, blocks)
    return (nats * weights).sum(), is_right.sum(), hidden_grad, target_cotangent, param_grads
