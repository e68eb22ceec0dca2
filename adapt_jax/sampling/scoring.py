"""Scores given answers instead of writing one: the log-likelihood of each option of a question.

A question and all its options are one row: every option sees the prefix, the question and itself,
and has the positions that it would have alone. So the question is encoded once, in the same pass,
and logits exist only where an option's token is predicted. Exact: a test holds it against one
forward pass of transformers per option.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.prefix import Prefix, PrefixCache, round_up
from adapt_jax.decoders.sharding import batch_sharding
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.compiled import encode_front
from adapt_jax.sampling.logits import log_probability

COLUMNS = 32  # rows are padded to a multiple of this, so that compiled code is reused
TARGETS = 16  # predicted tokens of a row whose logits exist at the same time
ROWS, TOKENS = 32, 8192  # of a batch, at most


@dataclass(frozen=True)
class MultipleChoiceRequest:
    """A question as tokens, and what may follow it. None of them is empty."""

    question: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Of the row: an option's last token is predicted, and never read."""
        return len(self.question) + sum(len(option) - 1 for option in self.options)

    @property
    def targets(self) -> int:
        """How many tokens are predicted."""
        return sum(map(len, self.options))


@partial(jax.jit, static_argnums=0)
def _score(
    graph: Any,
    weights: Any,
    prefix: PrefixCache,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    parts: Int[Array, "B T"],
    places: Int[Array, "B M"],
    targets: Int[Array, "B M"],
) -> Float[Array, "B M"]:
    """Log-probability of each target, predicted at its place of the row.

    ``parts`` are 1 for the question, 2 and on for the options, 0 for padding.
    """
    decoder = nnx.merge(graph, weights)
    mine, theirs = parts[:, :, None], parts[:, None, :]
    earlier = jnp.tril(jnp.ones((tokens.shape[1], tokens.shape[1]), bool))
    mask = earlier & ((theirs == 1) | (theirs == mine)) & (theirs > 0)
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    hidden, _ = decoder(embeddings, prefix.length + positions, mask, prefix=prefix.blocks)
    hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)

    def chunk(x: tuple[Array, Array]) -> Array:
        logits = decoder.logits(x[0])
        flat = log_probability(logits.reshape(-1, logits.shape[-1]), x[1].reshape(-1))
        return flat.reshape(x[1].shape)

    def chunks(x: Array) -> Array:  # [B, M, ...] -> [M / TARGETS, B, TARGETS, ...]
        return jnp.moveaxis(x.reshape(x.shape[0], -1, TARGETS, *x.shape[2:]), 1, 0)

    scores = jax.lax.map(chunk, (chunks(hidden), chunks(targets)))
    return jnp.moveaxis(scores, 0, 1).reshape(targets.shape)


def score(
    model: PretrainedDecoder,
    prefix: Prefix,
    asked: Sequence[MultipleChoiceRequest],
    *,
    mesh: Mesh | None = None,
    answered: Collection[int] = (),
) -> Iterator[tuple[int, list[float]]]:
    """Yields (index, the log-likelihood in nats of each option) for every question.

    Args:
        asked: what fits the context; the caller sees to it.
        answered: indices whose scores an earlier run has. They still shape the batches, so that
            the others come out to the bit as beside them.
    """
    graph, weights = nnx.split(model.decoder)
    dtype = model.decoder.embedding[...].dtype
    padding = ((0, round_up(len(prefix)) - len(prefix)), (0, 0))
    embeddings = jnp.pad(prefix.embeddings(model.decoder, dtype), padding)
    encoded = encode_front(graph, weights, embeddings, len(prefix))
    order = sorted(range(len(asked)), key=lambda index: asked[index].length)
    multiple = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    while order:
        row_length = round_up(asked[order[0]].length, COLUMNS)
        rows = round_up(max(1, min(ROWS, TOKENS // row_length)), multiple)
        batch, order = order[:rows], order[rows:]
        if all(index in answered for index in batch):
            continue
        row_length = round_up(max(asked[index].length for index in batch), COLUMNS)
        width = round_up(max(asked[index].targets for index in batch), TARGETS)
        arrays = [np.zeros((rows, size), np.int32) for size in (row_length,) * 3 + (width,) * 2]
        for row, index in enumerate(batch):
            _lay(asked[index], [array[row] for array in arrays])
        placed = arrays if mesh is None else jax.device_put(arrays, batch_sharding(mesh))
        scores = np.asarray(jax.device_get(_score(graph, weights, encoded, *placed)), np.float64)
        for row, index in enumerate(batch):
            if index not in answered:
                ends = np.cumsum([len(option) for option in asked[index].options])
                yield index, [float(part.sum()) for part in np.split(scores[row], ends)[:-1]]


def _lay(asked: MultipleChoiceRequest, row: Sequence[np.ndarray]) -> None:
    """Writes a question and its options into the rows that _score takes."""
    tokens, positions, parts, places, targets = row
    asks = len(asked.question)
    tokens[:asks], positions[:asks], parts[:asks] = asked.question, np.arange(asks), 1
    at, target = asks, 0
    for number, option in enumerate(asked.options, 2):
        read = len(option) - 1
        tokens[at : at + read], parts[at : at + read] = option[:-1], number
        positions[at : at + read] = asks + np.arange(read)
        targets[target : target + read + 1] = option
        places[target : target + read + 1] = [asks - 1, *range(at, at + read)]
        at, target = at + read, target + read + 1
