"""A forward pass over whole texts: hidden states and logits of rows padded to one shape."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import INFERENCE
from adapt_jax.decoders.prefix import round_up
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.likelihood import LENGTH_MULTIPLE, tokenize_texts
from adapt_jax.utils.errors import UserError

__all__ = ["compute_hidden", "compute_logits", "pad_rows"]


def compute_logits(
    model: PretrainedDecoder, texts: str | Sequence[int] | Sequence[str | Sequence[int]] | Any
) -> Float[np.ndarray, "B T V"]:
    """The decoder's logits, float32: ``logits[b, t]`` predicts the token at t + 1 of row b.

    Args:
        texts: token ids [T] or [B, T], a text, or a list of texts or token ids. Texts begin with
            BOS. Where rows differ in length, the logits after the end of a shorter one are NaN.

    Raises:
        UserError: as ``tokenize_texts``, or a row is longer than the decoder's context.
    """
    rows = tokenize_texts(model, texts)
    longest = max(map(len, rows))
    if longest > model.config.context_length:
        raise UserError(
            f"logits: {longest} tokens; the context of {model.path} holds "
            f"{model.config.context_length}"
        )
    tokens, segments = pad_rows(rows)
    graph, weights = nnx.split(model.decoder)
    logits = np.asarray(jax.device_get(_compute_logits(graph, weights, tokens, segments)))
    logits = logits[:, :longest].astype(np.float32)
    for row, ids in enumerate(rows):
        logits[row, len(ids) :] = np.nan
    return logits


@partial(jax.jit, static_argnums=0)
def _compute_logits(
    graph: Any, weights: Any, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> Float[Array, "B T V"]:
    decoder = nnx.merge(graph, weights)
    return decoder.logits(compute_hidden(decoder, tokens, segments))


def pad_rows(
    rows: Sequence[Sequence[int]], num_rows: int | None = None
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
    """Token ids of one shape, and 1 where they are real; ``num_rows`` adds empty rows."""
    length = round_up(max(map(len, rows)), LENGTH_MULTIPLE)
    tokens = np.zeros((num_rows or len(rows), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    return tokens, segments


def compute_hidden(
    decoder: Decoder, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> Float[Array, "B T D"]:
    """The last hidden states of padded rows, each read from its own beginning."""
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = causal_mask(segments)
    return decoder(embeddings, positions, mask, execution=INFERENCE)[0]
