"""Mixture of experts: in place of the feed-forward layer, or added to it (1701.06538, 2401.04088).

Axes: B rows, T tokens, M tokens of all rows, E experts, k experts of one token, D embedding,
F feed-forward, I inputs of an expert (the embedding, or a latent).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.activations import apply_activation, apply_clamped_swiglu
from adapt_jax.decoders.config import DecoderConfig, MoEConfig
from adapt_jax.decoders.layers import FeedForward, Linear, Norm
from adapt_jax.decoders.products import multiply_grouped

__all__ = ["DenseWithMoE", "MoE"]


class MoE(nnx.Module):
    """Each token passes the few experts to which the router gives the highest scores.

    The result is exact: experts have no capacity limit, and no token is dropped.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.moe is not None
        moe, embed = config.moe, config.embed_dim
        count, ffn, size = moe.num_experts, moe.ffn_dim, moe.latent_dim or embed

        def make_kernels(size_in: int, size_out: int, axes: tuple[str, str]) -> nnx.Param:
            kernels = rngs.params.normal((count, size_in, size_out)) * size_in**-0.5
            return nnx.Param(kernels, axes=(None, *axes))

        def make_bias(needed: bool, *size: int, axes: tuple[str, ...] = ()) -> nnx.Param | None:
            return nnx.Param(jnp.zeros((count, *size)), axes=(None, *axes)) if needed else None

        router = rngs.params.normal((embed, count)).T * embed**-0.5
        self.router = nnx.Param(router, axes=(None, "embed"))
        self.router_bias = make_bias(moe.router_bias)
        shape = (*(1,) * (moe.correction_bias_axes - 1), count)
        correction = nnx.Param(jnp.zeros(shape), axes=(None,) * len(shape))
        self.correction_bias = correction if moe.correction_bias else None
        self.gate = make_kernels(size, ffn, ("embed", "ffn")) if config.gated else None
        self.up = make_kernels(size, ffn, ("embed", "ffn"))
        self.down = make_kernels(ffn, size, ("ffn", "embed"))
        self.gate_bias = make_bias(moe.expert_bias and config.gated, ffn, axes=("ffn",))
        self.up_bias = make_bias(moe.expert_bias, ffn, axes=("ffn",))
        self.down_bias = make_bias(moe.expert_bias, size, axes=("embed",))
        # to the latents of experts, and back
        has_latent, bias = moe.latent_dim > 0, config.mlp_bias
        to_latent = Linear(rngs, embed, size, ("embed", None), bias) if has_latent else None
        to_embed = Linear(rngs, size, embed, (None, "embed"), bias) if has_latent else None
        self.latent_down, self.latent_up = to_latent, to_embed
        # Gemma 4 learns a factor for each expert's weight
        learned = config.dense_with_moe
        self.scale = nnx.Param(jnp.ones(count), axes=(None,)) if learned else None
        # the expert that every token passes
        has_shared = moe.shared_ffn_dim > 0
        self.shared = FeedForward(config, moe.shared_ffn_dim, rngs) if has_shared else None
        gate = Linear(rngs, embed, 1, ("embed", None), bias=False) if moe.shared_gate else None
        self.shared_gate = gate
        self.moe, self.activation = moe, config.activation
        self.lora: Any = nnx.data(None)  # factors of gate, up and down, while they are trained

    def __call__(
        self, x: Float[Array, "B T D"], router_input: Float[Array, "B T D"] | None = None
    ) -> Float[Array, "B T D"]:
        """The weighted outputs of each token's experts, and of the shared one.

        Args:
            router_input: what the router reads; by default x.
        """
        tokens, moe = x.reshape(-1, x.shape[-1]), self.moe  # [M, D]
        read = tokens if router_input is None else router_input.reshape(tokens.shape)
        weights, chosen = self._route(read)  # [M, k]
        if self.latent_down is not None:
            tokens = self.latent_down(tokens)

        # sort the M·k pairs of token and expert by expert; a stable sort keeps tokens in order
        order = jnp.argsort(chosen.reshape(-1))
        sorted_tokens = tokens[order // moe.experts_per_token]
        if moe.scale_inputs:
            sorted_tokens = sorted_tokens * weights.reshape(-1, 1)[order].astype(x.dtype)
            weights = jnp.ones_like(weights)
        out = self._apply_experts(sorted_tokens, chosen.reshape(-1), order)

        # back to the order of the tokens, [M, k, D], and sum over a token's experts
        outputs = jnp.zeros_like(out).at[order].set(out).reshape(*chosen.shape, -1)
        routed = jnp.einsum("mkd,mk->md", outputs, weights.astype(x.dtype))
        if self.latent_up is not None:
            routed = self.latent_up(routed)
        routed = routed.reshape(x.shape)
        return routed if self.shared is None else routed + self._apply_shared(x, self.shared)

    def _route(self, x: Float[Array, "M D"]) -> tuple[Float[Array, "M k"], Int[Array, "M k"]]:
        """The weights of each token's experts, in float32, and which experts these are."""
        moe = self.moe
        logits = x.astype(jnp.float32) @ self.router[...].astype(jnp.float32).T
        if self.router_bias is not None:
            logits = logits + self.router_bias[...].astype(jnp.float32)
        if moe.sparse_mixer is not None:
            return _mix_sparsely(logits, moe.sparse_mixer)
        scores = jax.nn.sigmoid(logits) if moe.scores == "sigmoid" else jax.nn.softmax(logits)

        # choose: by the scores themselves, or by corrected ones and inside the best groups
        if self.correction_bias is None and moe.num_groups == 1:
            weights, chosen = jax.lax.top_k(scores, moe.experts_per_token)
        else:
            ranks = jax.lax.stop_gradient(scores)
            if self.correction_bias is not None:
                ranks = ranks + jax.lax.stop_gradient(self.correction_bias[...]).astype(ranks.dtype)
            if moe.num_groups > 1:
                ranks = _keep_best_groups(ranks, moe)
            chosen = jax.lax.top_k(ranks, moe.experts_per_token)[1]
            weights = jnp.take_along_axis(scores, chosen, axis=-1)

        # scale
        if moe.normalize_weights:
            total = weights.sum(axis=-1, keepdims=True)
            total = total + moe.weight_sum_offset if moe.weight_sum_offset else total
            least = moe.min_weight_sum
            weights = weights / (jnp.maximum(total, least) if least else total)
        if moe.weight_scale != 1:
            weights = weights * moe.weight_scale
        if self.scale is not None:
            weights = weights * self.scale[...].astype(jnp.float32)[chosen]
        return weights, chosen

    def _apply_experts(
        self, x: Float[Array, "S I"], experts: Int[Array, " S"], order: Int[Array, " S"]
    ) -> Float[Array, "S I"]:
        """Each token's output of one expert, where S is M·k.

        Args:
            x: tokens sorted by their experts.
            experts: of the tokens before they were sorted; ``order`` sorts them.
        """
        sizes = jnp.bincount(experts, length=self.moe.num_experts)

        def project(x: Array, name: str) -> Array:
            """Multiplies each expert's tokens by its own kernel, in one grouped product."""
            kernels, bias = getattr(self, name), getattr(self, f"{name}_bias")
            lora = None if self.lora is None else getattr(self.lora, name)
            y = multiply_grouped(x, kernels[...].astype(x.dtype), sizes)
            y = y if bias is None else y + bias[...].astype(x.dtype)[experts[order]]
            return y if lora is None else y + lora(x, sizes)

        if self.gate is None:
            return project(apply_activation(self.activation, project(x, "up")), "down")
        gate, up = project(x, "gate"), project(x, "up")
        if self.moe.swiglu_clamp is not None:
            hidden = apply_clamped_swiglu(gate, up, *self.moe.swiglu_clamp)
        else:
            hidden = apply_activation(self.activation, gate, up)
        return project(hidden, "down")

    def _apply_shared(self, x: Float[Array, "B T D"], shared: FeedForward) -> Array:
        """The output of the shared expert, [B, T, D], behind its gate where it has one."""
        out = shared(x)
        return out if self.shared_gate is None else out * jax.nn.sigmoid(self.shared_gate(x))


def _keep_best_groups(ranks: Float[Array, "M E"], moe: MoEConfig) -> Float[Array, "M E"]:
    """The ranks of experts in the best groups, and minus infinity for all others."""
    groups = ranks.reshape(-1, moe.num_groups, moe.num_experts // moe.num_groups)
    group_ranks = jax.lax.top_k(groups, moe.scores_per_group)[0].sum(axis=-1)
    best = jax.lax.top_k(group_ranks, moe.groups_per_token)[1]
    is_kept = jax.nn.one_hot(best, moe.num_groups, dtype=bool).any(axis=1)
    return jnp.where(is_kept[..., None], groups, -jnp.inf).reshape(ranks.shape)


def _mix_sparsely(
    logits: Float[Array, "M E"], share: float
) -> tuple[Float[Array, "M 2"], Int[Array, "M 2"]]:
    """The weights of two experts for each token, and which experts these are (2409.12136).

    The best expert is weighed among those whose logits are at most ``share`` below its own,
    relative to the larger absolute value. The second one is weighed so among all but the best.
    """
    weights, chosen, left = [], [], logits
    for _ in range(2):
        fixed = jax.lax.stop_gradient(left)
        best = fixed.argmax(axis=-1, keepdims=True)
        top = jnp.take_along_axis(fixed, best, axis=-1)
        size = jnp.maximum(jnp.abs(jax.lax.stop_gradient(logits)), top)
        among = jnp.where((top - fixed) / size > share, -jnp.inf, left)
        weights.append(jnp.take_along_axis(jax.nn.softmax(among), best, axis=-1))
        chosen.append(best)
        left = jnp.where(jnp.arange(logits.shape[-1]) == best, -jnp.inf, left)
    return jnp.concatenate(weights, axis=-1), jnp.concatenate(chosen, axis=-1)


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
