"""A vector for each text: the mean of the decoder's last hidden states over its tokens."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.this_host import copy_to_this_host
from adapt_jax.sampling.forward import compute_hidden, pad_rows

__all__ = ["embed_texts"]

MAX_ROWS, MAX_TOKENS = 32, 4096  # of a batch


def embed_texts(model: PretrainedDecoder, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """The mean hidden state of each text, float32. Texts begin with BOS, where there is one.

    The hidden states are those that the output layer reads. What a text has beyond the decoder's
    context is left out. Several processes call it together; each computes all of them on its own
    devices.
    """
    model = copy_to_this_host(model)
    graph, weights = nnx.split(model.decoder)
    rows = [model.encode(text)[: model.config.context_length] or [0] for text in texts]
    found = np.zeros((len(rows), model.config.input_dim), np.float32)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    while order:
        # 1. texts of similar lengths; the longest of them decides how many fit
        count = min(MAX_ROWS, len(order)) if len(rows) > 1 else 1
        while count > 1 and count * len(rows[order[count - 1]]) > MAX_TOKENS:
            count -= 1
        batch, order = order[:count], order[count:]
        # 2. rows of one shape
        num_rows = MAX_ROWS if count > 1 else 1
        tokens, segments = pad_rows([rows[index] for index in batch], num_rows)
        # 3. their means
        means = jax.device_get(_compute_means(graph, weights, tokens, segments))
        found[batch] = np.asarray(means, np.float32)[:count]
    return found


@partial(jax.jit, static_argnums=0)
def _compute_means(
    graph: Any, weights: Any, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> Float[Array, "B D"]:
    """The mean over each row's tokens; rows without any give 0."""
    hidden = compute_hidden(nnx.merge(graph, weights), tokens, segments)
    is_real = (segments > 0)[..., None]
    total = jnp.sum(jnp.where(is_real, hidden.astype(jnp.float32), 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(is_real, axis=1), 1)
