"""A vector for each text: the mean of the decoder's last hidden states over its tokens."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.prefix import round_up
from adapt_jax.pretrained.loading import PretrainedDecoder

__all__ = ["embed_texts"]

LENGTH_MULTIPLE = 32  # rows are padded to a multiple of this, so that compiled code is reused
MAX_ROWS, MAX_TOKENS = 32, 4096  # of a batch


def embed_texts(model: PretrainedDecoder, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """The mean hidden state of each text, float32. Texts begin with BOS, where there is one.

    The hidden states are those that the output layer reads. What a text has beyond the decoder's
    context is left out.
    """
    graph, weights = nnx.split(model.decoder)
    rows = [model.encode(text)[: model.config.context_length] or [0] for text in texts]
    found = np.zeros((len(rows), model.config.embed_dim), np.float32)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    while order:
        # 1. texts of similar lengths; the longest of them decides how many fit
        count = min(MAX_ROWS, len(order)) if len(rows) > 1 else 1
        while count > 1 and count * len(rows[order[count - 1]]) > MAX_TOKENS:
            count -= 1
        batch, order = order[:count], order[count:]
        # 2. rows of one shape
        length = round_up(len(rows[batch[-1]]), LENGTH_MULTIPLE)
        tokens = np.zeros((MAX_ROWS if count > 1 else 1, length), np.int32)
        segments = np.zeros_like(tokens)
        for row, index in enumerate(batch):
            tokens[row, : len(rows[index])] = rows[index]
            segments[row, : len(rows[index])] = 1
        # 3. their means
        means = jax.device_get(_compute_means(graph, weights, tokens, segments))
        found[batch] = np.asarray(means, np.float32)[:count]
    return found


@partial(jax.jit, static_argnums=0)
def _compute_means(
    graph: Any, weights: Any, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> Float[Array, "B D"]:
    """The mean over each row's tokens; rows without any give 0."""
    decoder = nnx.merge(graph, weights)
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = decoder(embeddings, positions, causal_mask(segments))
    is_real = (segments > 0)[..., None]
    total = jnp.sum(jnp.where(is_real, hidden.astype(jnp.float32), 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(is_real, axis=1), 1)
