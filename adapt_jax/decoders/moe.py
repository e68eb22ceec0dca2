"""A mixture of experts in place of the feed-forward part, or beside it (1701.06538, 2401.04088).

Axes: M tokens of all rows, E experts, D embedding, F feed-forward.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.layers import Norm


class MoE(nnx.Module):
    """Each token goes through the few experts that the router gives the highest probability.

    Exact: no expert has a capacity, no token is dropped. Tokens are sorted by expert and go
    through grouped products (``jax.lax.ragged_dot``).
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.moe is not None
        embed, count, ffn = config.embed_dim, config.moe.num_experts, config.moe.ffn_dim

        def stack(size_in: int, size_out: int, axes: tuple[str, str]) -> nnx.Param:
            kernel = rngs.params.normal((count, size_in, size_out)) * size_in**-0.5
            return nnx.Param(kernel, axes=(None, *axes))

        router = rngs.params.normal((embed, count)).T * embed**-0.5
        self.router = nnx.Param(router, axes=(None, "embed"))
        self.gate = stack(embed, ffn, ("embed", "ffn"))
        self.up = stack(embed, ffn, ("embed", "ffn"))
        self.down = stack(ffn, embed, ("ffn", "embed"))
        beside = config.dense_with_moe
        self.scale = nnx.Param(jnp.ones(count), axes=(None,)) if beside else None
        self.moe, self.activation = config.moe, config.activation

    def __call__(
        self, x: Float[Array, "B T D"], routed: Float[Array, "B T D"] | None = None
    ) -> Float[Array, "B T D"]:
        """``routed`` is what the router reads, where that is not x."""
        tokens, moe = x.reshape(-1, x.shape[-1]), self.moe
        read = tokens if routed is None else routed.reshape(tokens.shape)
        scores = read.astype(jnp.float32) @ self.router[...].astype(jnp.float32).T
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), moe.experts_per_token)
        if moe.normalize_weights:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        if self.scale is not None:
            weights = weights * self.scale[...].astype(jnp.float32)[chosen]
        order = jnp.argsort(chosen.reshape(-1))  # stable: within an expert, by token
        sizes = jnp.bincount(chosen.reshape(-1), length=moe.num_experts)
        sorted_tokens = tokens[order // moe.experts_per_token]

        def grouped(left: Array, kernels: nnx.Param) -> Array:
            return jax.lax.ragged_dot(left, kernels[...].astype(left.dtype), sizes)

        gate, up = grouped(sorted_tokens, self.gate), grouped(sorted_tokens, self.up)
        out = grouped(apply_activation(self.activation, gate, up), self.down)
        mixed = jnp.zeros_like(out).at[order].set(out).reshape(*chosen.shape, -1)
        mixed = jnp.einsum("mkd,mk->md", mixed, weights.astype(x.dtype))
        return mixed.reshape(x.shape)


class DenseWithMoE(nnx.Module):
    """Experts beside a dense feed-forward part, each between norms of its own (Gemma 4)."""

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
        """The sum of what the dense part makes of the tokens ``x`` and of what the experts do."""
        routed = self.router_norm(x) * x.shape[-1] ** -0.5
        return self.dense_post_norm(dense) + self.post_norm(self.experts(self.norm(x), routed))
