"""Multi-head latent attention (MLA): a layer keeps one small latent per token, and no head's keys.

A latent has R features from which keys and values of all heads are projected, and after them the
rotary part of the keys, which all heads share. There are two forms of the same attention. The
expanded form projects every latent to keys and values of N heads. The absorbed form projects the
queries to latents instead, and attends to the latents themselves, as if these were the keys and
values of a single head. The first needs less for many queries, the second for one at a time.

Paper: DeepSeek-V2 (2405.04434), section 2.1.

Axes: B rows, T tokens, S keys (cache slots), P prefix tokens, D embedding, N heads, R features of a
latent, r rotary features, H = h + r features of queries and keys, V features of values.
"""

from dataclasses import replace

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.attention import KVPair
from adapt_jax.decoders.attention_inputs import AttentionInputs
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.layers import Linear, Norm
from adapt_jax.decoders.products import multiply
from adapt_jax.decoders.rope import apply_rope

__all__ = ["LatentAttention"]


class LatentAttention(nnx.Module):
    """Multi-head latent attention; the sizes are those of ``DecoderConfig.latent_attention``."""

    def __init__(self, config: DecoderConfig, layer: LayerConfig, rngs: nnx.Rngs):
        latent = config.latent_attention
        assert latent is not None
        embed, heads, bias = config.embed_dim, config.num_heads, config.qkv_bias
        query_dim = heads * (latent.nope_dim + layer.head_dim)
        norms = replace(config, norm_eps=latent.norm_eps)
        has_query_latent = latent.query_rank is not None
        if latent.query_rank is None:
            self.query = Linear(rngs, embed, query_dim, ("embed", "heads"), False)
        else:
            self.query_down = Linear(rngs, embed, latent.query_rank, ("embed", None), bias)
            self.query_norm = Norm(norms, latent.query_rank, None)
            self.query_up = Linear(rngs, latent.query_rank, query_dim, (None, "heads"), False)
        latent_dim, up_dim = latent.kv_rank + layer.head_dim, latent.nope_dim + latent.value_dim
        self.kv_down = Linear(rngs, embed, latent_dim, ("embed", None), bias)
        self.kv_norm = Norm(norms, latent.kv_rank, None)
        self.kv_up = Linear(rngs, latent.kv_rank, heads * up_dim, (None, "heads"), False)
        value_dim = heads * latent.value_dim
        self.output = Linear(rngs, value_dim, embed, ("heads", "embed"), config.output_bias)
        self.config, self.layer, self.latent = config, layer, latent
        self.has_query_latent = has_query_latent

    def __call__(
        self, x: Float[Array, "B T D"], inputs: AttentionInputs
    ) -> tuple[Float[Array, "B T D"], KVPair]:
        """The attention output (at ``output_positions``), and the latents [B, 1, S, R + r].

        The latents stand where other layers have keys; in the place of values nothing is kept.
        """
        queries, latents = self._compute_queries(x, inputs), self._compute_latents(x, inputs)
        # without values: an array of size 0
        kept, nothing = inputs.write_to_cache(latents, latents[..., :0])
        prefix = None if inputs.prefix is None else inputs.prefix[0]
        attend = self._attend_expanded if inputs.cache is None else self._attend_absorbed
        attended = attend(queries, kept, prefix, inputs)
        # heads side by side, projected back to [B, T, D]
        attended = inputs.select_outputs(attended.reshape(*x.shape[:2], -1))
        return self.output(attended), (kept, nothing)

    def _attend_expanded(
        self,
        queries: Float[Array, "B T N H"],
        latents: Float[Array, "B 1 S R+r"],
        prefix: Float[Array, "1 P R+r"] | None,
        inputs: AttentionInputs,
    ) -> Float[Array, "B T N V"]:
        """Attention to the keys and values of all heads."""
        shared = None if prefix is None else self._expand(prefix)
        return self._attend(queries, self._expand(latents), shared, inputs)

    def _attend_absorbed(
        self,
        queries: Float[Array, "B T N H"],
        latents: Float[Array, "B 1 S R+r"],
        prefix: Float[Array, "1 P R+r"] | None,
        inputs: AttentionInputs,
    ) -> Float[Array, "B T N V"]:
        """Attention to the latents: q · (W l) is (Wᵀ q) · l, and Σ a W l is W (Σ a l).

        A slice of the kernel or of the cache would be a copy in every step. So the kernel also
        multiplies zeros in place of values, and what is not wanted of the sums is dropped.
        """
        nope_dim, kv_rank = self.latent.nope_dim, self.latent.kv_rank
        kernel = self.kv_up.effective_kernel(queries.dtype)
        kernel = kernel.reshape(self.config.num_heads, -1, kv_rank)  # [N, h + V, R]
        zeros = ((0, 0), (0, 0), (0, 0), (0, self.latent.value_dim))
        nope = multiply("btnu,nur->btnr", jnp.pad(queries[..., :nope_dim], zeros), kernel)
        queries = jnp.concatenate([nope, queries[..., nope_dim:]], axis=-1)
        shared = None if prefix is None else (prefix, prefix)
        attended = self._attend(queries, (latents, latents), shared, inputs)[..., :kv_rank]
        return multiply("btnr,nur->btnu", attended, kernel)[..., nope_dim:]

    def _attend(
        self,
        queries: Float[Array, "B T N H"],
        own: KVPair,
        prefix: KVPair | None,
        inputs: AttentionInputs,
    ) -> Float[Array, "B T N V"]:
        # of the expanded form in both
        size = self.latent.nope_dim + self.layer.head_dim
        scale = size**-0.5 if self.config.attention_scale is None else self.config.attention_scale
        return inputs.attend(
            queries,
            own,
            prefix,
            self.layer,
            scale=scale,
            softcap=self.config.attention_softcap,
        )

    def _compute_queries(
        self, x: Float[Array, "B T D"], inputs: AttentionInputs
    ) -> Float[Array, "B T N H"]:
        """Queries, the last r features of each head rotated."""
        if self.has_query_latent:
            projected = self.query_up(self.query_norm(self.query_down(x)))
        else:
            projected = self.query(x)
        queries = projected.reshape(*x.shape[:2], self.config.num_heads, -1)
        queries = self._rotate_after(self.latent.nope_dim, queries, inputs)
        return inputs.scale_queries(queries, self.layer)

    def _compute_latents(
        self, x: Float[Array, "B T D"], inputs: AttentionInputs
    ) -> Float[Array, "B 1 T R+r"]:
        """Normed latents of the tokens, and beside them the rotary part of their keys."""
        kv_rank = self.latent.kv_rank
        down = self.kv_down(x)
        latents = jnp.concatenate([self.kv_norm(down[..., :kv_rank]), down[..., kv_rank:]], axis=-1)
        return self._rotate_after(kv_rank, latents[:, :, None], inputs).swapaxes(1, 2)

    def _expand(self, latents: Float[Array, "*B 1 S R+r"]) -> KVPair:
        """Keys [B, N, S, H] and values [B, N, S, V] of all heads; of a prefix without B."""
        kv_rank, nope_dim = self.latent.kv_rank, self.latent.nope_dim
        up = self.kv_up(latents[..., 0, :, :kv_rank])
        up = up.reshape(*up.shape[:-1], self.config.num_heads, -1).swapaxes(-3, -2)
        rotary = jnp.broadcast_to(
            latents[..., kv_rank:], (*up.shape[:-1], latents.shape[-1] - kv_rank)
        )
        return jnp.concatenate([up[..., :nope_dim], rotary], axis=-1), up[..., nope_dim:]

    def _rotate_after(
        self, start: int, x: Float[Array, "B T N H"], inputs: AttentionInputs
    ) -> Float[Array, "B T N H"]:
        """Rotates the features from ``start`` on."""
        rope = self.layer.rope
        if rope is None:
            return x
        cos_sin = inputs.cos_sin[rope, self.layer.head_dim]
        rotated = apply_rope(x[..., start:], cos_sin, rope.interleaved)
        return jnp.concatenate([x[..., :start], rotated], axis=-1)
