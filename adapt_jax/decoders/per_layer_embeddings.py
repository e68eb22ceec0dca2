"""Per-layer embeddings: each layer has an embedding of its own for each token (Gemma 3n, 4).

Axes: B rows, T tokens, D embedding, L layers, E size of a per-layer embedding.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.array_rows import take_rows
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.layers import Linear, Norm

__all__ = ["PerLayerEmbeddings", "PerLayerGate", "look_up"]


def look_up(
    table: nnx.Param, tokens: Int[Array, "*B T"], scale: float, dtype: Any
) -> Float[Array, "*B T D"]:
    """The rows of an embedding table, times a scale."""
    rows = take_rows(table[...], tokens)
    if scale == 1:
        return rows.astype(dtype)
    # The scale is rounded to the dtype of the weights, as when Gemma was trained.
    return (rows * jnp.asarray(scale, rows.dtype)).astype(dtype)


class PerLayerEmbeddings(nnx.Module):
    """A second embedding table, for all layers at once, and a projection of the first one.

    What a layer receives is the mean of the two, times sqrt(2).
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.size, self.embed_dim = config.per_layer_embedding_dim, config.embed_dim
        self.vocab_size, self.table_size = config.vocab_size, config.per_layer_embedding_vocab
        wide = config.num_layers * self.size
        table = rngs.params.normal((config.per_layer_embedding_vocab, wide)) * wide**-0.5
        self.embedding = nnx.Param(table, axes=("vocab", None))
        self.projection = Linear(rngs, config.embed_dim, wide, ("embed", None), False)
        self.norm = Norm(config, self.size, None)

    def embed(self, tokens: Int[Array, "*B T"], dtype: Any) -> Float[Array, "*B T L*E"]:
        """The tokens' rows of the second table; tokens beyond it have its first row (Gemma 3n)."""
        if self.table_size < self.vocab_size:
            tokens = jnp.where(tokens < self.table_size, tokens, 0)
        return look_up(self.embedding, tokens, self.size**0.5, dtype)

    def __call__(
        self, embeddings: Float[Array, "B T D+L*E"]
    ) -> tuple[Float[Array, "B T D"], list[Float[Array, "B T E"]]]:
        """Splits input embeddings into the embeddings proper and what each layer receives."""
        x, from_table = jnp.split(embeddings, [self.embed_dim], axis=-1)
        by_layer = (*x.shape[:-1], -1, self.size)
        projected = self.norm((self.projection(x) * self.embed_dim**-0.5).reshape(by_layer))
        received = (projected + from_table.reshape(by_layer)) * 2**-0.5
        return x, [received[..., layer, :] for layer in range(received.shape[-2])]


class PerLayerGate(nnx.Module):
    """How a layer uses its per-layer embedding: it gates a narrow feed-forward layer."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        embed, size = config.embed_dim, config.per_layer_embedding_dim
        self.gate = Linear(rngs, embed, size, ("embed", None), False)
        self.output = Linear(rngs, size, embed, (None, "embed"), False)
        self.post_norm = Norm(config, embed)
        self.activation = config.activation

    def __call__(
        self, x: Float[Array, "B T D"], per_layer_embedding: Float[Array, "B T E"]
    ) -> Float[Array, "B T D"]:
        """The update of the hidden states x."""
        gated = apply_activation(self.activation, self.gate(x), per_layer_embedding)
        return self.post_norm(self.output(gated))
