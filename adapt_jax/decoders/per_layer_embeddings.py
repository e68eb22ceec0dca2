"""What a token tells every layer beside its embedding (Gemma 4's E2B and E4B).

Axes: B rows, T tokens, D embedding, L layers, E what one layer is told, V tokens that have it.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.layers import Linear, Norm


def scaled_rows(
    table: nnx.Param, tokens: Int[Array, "*B T"], scale: float, dtype: Any
) -> Float[Array, "*B T D"]:
    """Rows of a table, times a number."""
    rows = table[...]
    if scale == 1:
        return rows[tokens].astype(dtype)
    # Rounded as the weights are: Gemma was trained so.
    return (rows[tokens] * jnp.asarray(scale, rows.dtype)).astype(dtype)


class PerLayerEmbeddings(nnx.Module):
    """A second table of embeddings, for all layers at once, mixed with what the first one says."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.size, self.embed_dim = config.per_layer_embedding_dim, config.embed_dim
        wide = config.num_layers * self.size
        table = rngs.params.normal((config.per_layer_embedding_vocab, wide)) * wide**-0.5
        self.embedding = nnx.Param(table, axes=("vocab", None))
        self.projection = Linear(rngs, config.embed_dim, wide, ("embed", None), False)
        self.norm = Norm(config, self.size, None)

    def embed(self, tokens: Int[Array, "*B T"], dtype: Any) -> Float[Array, "*B T LE"]:
        """What the token itself tells the layers."""
        return scaled_rows(self.embedding, tokens, self.size**0.5, dtype)

    def __call__(
        self, embeddings: Float[Array, "B T D+LE"]
    ) -> tuple[Float[Array, "B T D"], list[Float[Array, "B T E"]]]:
        """The embeddings alone, and what each layer is told."""
        x, by_token = jnp.split(embeddings, [self.embed_dim], axis=-1)
        apart = (*x.shape[:-1], -1, self.size)
        by_embedding = self.norm((self.projection(x) * self.embed_dim**-0.5).reshape(apart))
        told = (by_embedding + by_token.reshape(apart)) * 2**-0.5
        return x, [told[..., layer, :] for layer in range(told.shape[-2])]


class PerLayerGate(nnx.Module):
    """How a layer takes in what it is told: as the gate of a narrow feed-forward part."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        embed, size = config.embed_dim, config.per_layer_embedding_dim
        self.gate = Linear(rngs, embed, size, ("embed", None), False)
        self.output = Linear(rngs, size, embed, (None, "embed"), False)
        self.post_norm = Norm(config, embed)
        self.activation = config.activation

    def __call__(
        self, x: Float[Array, "B T D"], told: Float[Array, "B T E"]
    ) -> Float[Array, "B T D"]:
        """What is added to x."""
        return self.post_norm(self.output(apply_activation(self.activation, self.gate(x), told)))
