"""A mixture of experts in place of the feed-forward part (1701.06538, 2401.04088).

Axes: M tokens of all rows, E experts, D embedding, F feed-forward.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import ACTIVATIONS
from adapt_jax.decoders.config import DecoderConfig


class MixedExperts(nnx.Module):
    """Each token goes through the few experts that the router gives the highest probability.

    Exact: no expert has a capacity, no token is dropped. Tokens are sorted by expert and go
    through grouped products (``jax.lax.ragged_dot``).
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.experts is not None
        embed, count, ffn = config.embed_dim, config.experts.count, config.experts.ffn_dim

        def stack(size_in: int, size_out: int, axes: tuple[str, str]) -> nnx.Param:
            kernel = jax.random.normal(rngs.params(), (count, size_in, size_out)) * size_in**-0.5
            return nnx.Param(kernel, axes=(None, *axes))

        router = jax.random.normal(rngs.params(), (embed, count)) * embed**-0.5
        self.router = nnx.Param(router, axes=("embed", None))
        self.gate = stack(embed, ffn, ("embed", "ffn"))
        self.up = stack(embed, ffn, ("embed", "ffn"))
        self.down = stack(ffn, embed, ("ffn", "embed"))
        self.experts, self.activation = config.experts, config.activation

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        tokens, experts = x.reshape(-1, x.shape[-1]), self.experts
        scores = tokens.astype(jnp.float32) @ self.router[...].astype(jnp.float32)
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), experts.per_token)
        if experts.normalized:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        order = jnp.argsort(chosen.reshape(-1))  # stable: within an expert, by token
        sizes = jnp.bincount(chosen.reshape(-1), length=experts.count)
        sorted_tokens = tokens[order // experts.per_token]

        def grouped(left: Array, kernels: nnx.Param) -> Array:
            return jax.lax.ragged_dot(left, kernels[...].astype(left.dtype), sizes)

        gated = ACTIVATIONS[self.activation](grouped(sorted_tokens, self.gate))
        out = grouped(gated * grouped(sorted_tokens, self.up), self.down)
        mixed = jnp.zeros_like(out).at[order].set(out).reshape(*chosen.shape, -1)
        mixed = jnp.einsum("mkd,mk->md", mixed, weights.astype(x.dtype))
        return mixed.reshape(x.shape)
