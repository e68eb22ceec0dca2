"""Mixture of experts: in place of the feed-forward layer, or added to it (1701.06538, 2401.04088).

Axes: B rows, T tokens, M tokens of all rows, E experts, k experts of one token, D embedding,
F feed-forward.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.layers import Norm

__all__ = ["DenseWithMoE", "MoE"]


class MoE(nnx.Module):
    """Each token passes the few experts to which the router gives the highest probabilities.

    The result is exact: experts have no capacity limit, and no token is dropped.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.moe is not None
        embed, count, ffn = config.embed_dim, config.moe.num_experts, config.moe.ffn_dim

        def make_kernels(size_in: int, size_out: int, axes: tuple[str, str]) -> nnx.Param:
            kernels = rngs.params.normal((count, size_in, size_out)) * size_in**-0.5
            return nnx.Param(kernels, axes=(None, *axes))

        router = rngs.params.normal((embed, count)).T * embed**-0.5
        self.router = nnx.Param(router, axes=(None, "embed"))
        self.gate = make_kernels(embed, ffn, ("embed", "ffn"))
        self.up = make_kernels(embed, ffn, ("embed", "ffn"))
        self.down = make_kernels(ffn, embed, ("ffn", "embed"))
        # Gemma 4 learns a factor for each expert's weight
        learned = config.dense_with_moe
        self.scale = nnx.Param(jnp.ones(count), axes=(None,)) if learned else None
        self.moe, self.activation = config.moe, config.activation

    def __call__(
        self, x: Float[Array, "B T D"], router_input: Float[Array, "B T D"] | None = None
    ) -> Float[Array, "B T D"]:
        """The weighted outputs of each token's experts.

        Args:
            router_input: what the router reads; by default x.
        """
        tokens, moe = x.reshape(-1, x.shape[-1]), self.moe  # [M, D]
        read = tokens if router_input is None else router_input.reshape(tokens.shape)

        # route: the experts of each token and their weights, [M, k]
        scores = read.astype(jnp.float32) @ self.router[...].astype(jnp.float32).T
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), moe.experts_per_token)
        if moe.normalize_weights:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        if self.scale is not None:
            weights = weights * self.scale[...].astype(jnp.float32)[chosen]

        # sort the M·k pairs of token and expert by expert; a stable sort keeps tokens in order
        order = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=moe.num_experts)
        sorted_tokens = tokens[order // moe.experts_per_token]

        def multiply(x: Array, kernels: nnx.Param) -> Array:
            """Multiplies each expert's tokens by its own kernel, in one grouped product."""
            return jax.lax.ragged_dot(x, kernels[...].astype(x.dtype), sizes)

        gate, up = multiply(sorted_tokens, self.gate), multiply(sorted_tokens, self.up)
        out = multiply(apply_activation(self.activation, gate, up), self.down)

        # back to the order of the tokens, [M, k, D], and sum over a token's experts
        outputs = jnp.zeros_like(out).at[order].set(out).reshape(*chosen.shape, -1)
        return jnp.einsum("mkd,mk->md", outputs, weights.astype(x.dtype)).reshape(x.shape)


class DenseWithMoE(nnx.Module):
    """Adds a mixture of experts to a dense feed-forward layer; each has its norms (Gemma 4)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        embed = config.embed_dim
        self.router_norm = Norm(config, embed)
        self.norm = Norm(config, embed)
        self.experts = MoE(config, rngs)
        self.post_norm = Norm(config, embed)
        self.dense_post_norm = Norm(config, embed)

    def __call__(
        self, dense: Float[Array, "B T D"], x: Float[Array, "B T D"]
    ) -> Float[Array, "B T D"]:
        """The normed sum of both.

        Args:
            dense: output of the dense feed-forward layer.
            x: input of the experts, the hidden states before the feed-forward layer's norm.
        """
        router_input = self.router_norm(x) * x.shape[-1] ** -0.5
        moe = self.experts(self.norm(x), router_input)
        return self.dense_post_norm(dense) + self.post_norm(moe)
