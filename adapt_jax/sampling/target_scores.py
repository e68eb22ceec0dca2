"""The compiled functions that score given tokens: logits exist only where one is predicted.

Axes: B rows, T tokens of a row, M targets of a row, R rows of encoded contexts.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import INFERENCE
from adapt_jax.decoders.prefix import PrefixCache, PrefixCaches
from adapt_jax.decoders.states import LayerState
from adapt_jax.sampling.compiled import Cache
from adapt_jax.sampling.logits import get_log_probability

__all__ = ["TARGETS_AT_ONCE", "TextRows", "score_rows", "score_rows_after_contexts"]

TARGETS_AT_ONCE = 16  # predicted tokens of a row whose logits exist at the same time


class TextRows(NamedTuple):
    """The rows of a batch, and what is scored of them. Padding is 0.

    Attributes:
        positions: of the tokens, from the beginning of the context.
        segments: 1 for the context, 2 and on for the continuations, 0 for padding.
        places: the token of the row after which each target is predicted.
        targets: the tokens that are predicted.
    """

    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    places: Int[Array, "B M"]
    targets: Int[Array, "B M"]


@partial(jax.jit, static_argnums=0)
def score_rows(
    graph: Any,
    weights: Any,
    prefix: PrefixCache,
    rows: TextRows,
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
    """The log-probability of each target, predicted at its place of the row.

    Returns:
        the log-probabilities; and whether no other token is more probable.
    """
    decoder = nnx.merge(graph, weights)
    # a token attends to the context, and to its own continuation
    own, theirs = rows.segments[:, :, None], rows.segments[:, None, :]
    earlier = jnp.tril(jnp.ones((rows.tokens.shape[1],) * 2, bool))
    mask = earlier & ((theirs == 1) | (theirs == own)) & (theirs > 0)
    hidden, _ = decoder(
        decoder.embed(rows.tokens, decoder.embedding[...].dtype),
        prefix.length + rows.positions,
        mask,
        prefix=prefix.blocks,
        execution=INFERENCE,
    )
    return _score_targets(decoder, hidden, rows)


@partial(jax.jit, static_argnums=0)
def score_rows_after_contexts(
    graph: Any,
    weights: Any,
    prefix: PrefixCaches,
    contexts: Cache,
    context_of_row: Int[Array, " B"],
    lengths: Int[Array, " B"],
    rows: TextRows,
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
    """Scores rows as ``score_rows`` does; their contexts were encoded before.

    Args:
        prefix: a single one, which the contexts follow.
        contexts: what layers keep of them, [R, ...].
        context_of_row: which context each row follows.
        lengths: the tokens of that context.
        rows: what follows, a single continuation in each; positions and segments do not count.
            Padding comes last, so nothing that is scored sees it.
    """
    decoder = nnx.merge(graph, weights)
    size = rows.tokens.shape[1]

    def copy(layer: Any) -> Any:
        copied = jax.tree.map(lambda x: x[context_of_row], layer)
        if isinstance(layer, LayerState):
            return copied
        # room for the new keys and values
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, size), (0, 0))), copied)

    cache = [copy(layer) for layer in contexts]
    with_keys = [layer for layer in cache if not isinstance(layer, LayerState)]
    columns = jnp.arange(with_keys[0][0].shape[2] if with_keys else 0)
    at = lengths[:, None] + jnp.arange(size)
    hidden, _ = decoder(
        decoder.embed(rows.tokens, decoder.embedding[...].dtype),
        prefix.lengths[0] + at,
        columns <= at[..., None],
        prefix=prefix.blocks(jnp.zeros_like(context_of_row), size),
        prefix_positions=prefix.positions,
        cache=cache,
        write_at=lengths,
        execution=INFERENCE,
    )
    return _score_targets(decoder, hidden, rows)


def _score_targets(
    decoder: Decoder, hidden: Float[Array, "B T D"], rows: TextRows
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
    """Scores the targets from hidden states; logits exist for a few at a time."""
    hidden = jnp.take_along_axis(hidden, rows.places[..., None], axis=1)

    def score_some(some: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = decoder.logits(some[0])
        flat, flat_targets = logits.reshape(-1, logits.shape[-1]), some[1].reshape(-1)
        chosen = jnp.take_along_axis(flat, flat_targets[:, None], axis=-1)[:, 0]
        is_best = chosen >= jnp.max(flat, axis=-1)
        scores = get_log_probability(flat, flat_targets)
        return scores.reshape(some[1].shape), is_best.reshape(some[1].shape)

    def split(x: Array) -> Array:  # [B, M, ...] -> [M / TARGETS_AT_ONCE, B, TARGETS_AT_ONCE, ...]
        return jnp.moveaxis(x.reshape(x.shape[0], -1, TARGETS_AT_ONCE, *x.shape[2:]), 1, 0)

    scores, is_best = jax.lax.map(score_some, (split(hidden), split(rows.targets)))
    return tuple(jnp.moveaxis(x, 0, 1).reshape(rows.targets.shape) for x in (scores, is_best))  # type: ignore[return-value]
