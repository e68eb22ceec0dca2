"""The transformer layer: attention or a mixer, and a feed-forward layer, with norms and residuals.

Axes: B rows, T tokens, S keys (cache slots), M tokens whose output is wanted, D embedding,
N query heads, K key/value heads, H head size, E per-layer embedding, S streams.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.altup import AltUp, Laurel
from adapt_jax.decoders.attention import KVPair
from adapt_jax.decoders.attention_inputs import AttentionInputs
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.latent_attention import LatentAttention
from adapt_jax.decoders.layers import FeedForward, Linear, Norm, scale
from adapt_jax.decoders.mixers import begin_state, make_mixer
from adapt_jax.decoders.moe import DenseWithMoE, MoE
from adapt_jax.decoders.per_layer_embeddings import PerLayerGate
from adapt_jax.decoders.rope import apply_rope
from adapt_jax.decoders.states import LayerState

__all__ = ["Attention", "LayerCache", "TransformerLayer"]


class Attention(nnx.Module):
    """Grouped-query attention (2305.13245)."""

    def __init__(self, config: DecoderConfig, layer: LayerConfig, rngs: nnx.Rngs):
        embed, head_dim, bias = config.embed_dim, layer.head_dim, config.qkv_bias
        query_dim, kv_dim = config.num_heads * head_dim, layer.num_kv_heads * head_dim
        has_kv = layer.kv_shared_with is None

        def make_kv_projection(needed: bool) -> Linear | None:
            return Linear(rngs, embed, kv_dim, ("embed", "kv_heads"), bias) if needed else None

        self.query = Linear(rngs, embed, query_dim, ("embed", "heads"), bias)
        self.key = make_kv_projection(has_kv)
        self.value = make_kv_projection(has_kv and not layer.attention_k_eq_v)
        self.output = Linear(rngs, query_dim, embed, ("heads", "embed"), config.output_bias)
        self.output_gate = (
            Linear(rngs, embed, query_dim, ("embed", "heads"), bias)
            if config.attention_gate
            else None
        )
        self.query_norm = _make_qk_norm(config, layer, query_dim, "heads")
        self.key_norm = _make_qk_norm(config, layer, kv_dim, "kv_heads") if has_kv else None
        norms_values = has_kv and config.value_norm
        self.value_norm = Norm(config, head_dim, None, scaled=False) if norms_values else None
        sinks = jnp.zeros(config.num_heads)
        self.sinks = nnx.Param(sinks, axes=("heads",)) if config.attention_sinks else None
        self.config, self.layer = config, layer

    def __call__(
        self, x: Float[Array, "B T D"], inputs: AttentionInputs
    ) -> tuple[Float[Array, "B T D"], KVPair]:
        """The attention output (at ``output_positions``), and the keys and values it used."""
        # queries [B, T, N, H]
        queries = self._make_heads(self.query(x), self.query_norm, inputs)
        queries = inputs.scale_queries(queries, self.layer)
        # keys and values [B, K, S, H]: of this layer, or of the one it shares them with
        shared = inputs.shared_kv
        keys, values = self._compute_kv(x, inputs) if shared is None else shared
        attended = inputs.attend(
            queries,
            (keys, values),
            None if inputs.prefix is None else inputs.prefix[:2],
            self.layer,
            scale=self.config.attention_scale,
            softcap=self.config.attention_softcap,
            sinks=None if self.sinks is None else self.sinks[...],
        )
        # heads side by side, projected back to [B, T, D]
        attended = inputs.select_outputs(attended.reshape(*x.shape[:2], -1))
        if self.output_gate is not None:
            attended = attended * jax.nn.sigmoid(self.output_gate(inputs.select_outputs(x)))
        return self.output(attended), (keys, values)

    def _compute_kv(self, x: Float[Array, "B T D"], inputs: AttentionInputs) -> KVPair:
        """Keys and values of this layer, [B, K, T, H]; with a cache, all slots of it."""
        assert self.key is not None
        projected = scale(self.key(x), self.config.multipliers.key)
        values = self._split_heads(
            projected if self.value is None else self.value(x), self.value_norm
        )
        keys = self._make_heads(projected, self.key_norm, inputs)
        keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)
        return inputs.write_to_cache(keys, values)

    def _make_heads(
        self, projected: Float[Array, "B T N*H"], norm: Norm | None, inputs: AttentionInputs
    ) -> Float[Array, "B T N H"]:
        """The heads of queries or keys, normed and rotated."""
        if norm is not None and self.config.qk_norm_after_rope:
            return norm(self._rotate(self._split_heads(projected, None), inputs))
        return self._rotate(self._split_heads(projected, norm), inputs)

    def _rotate(
        self, x: Float[Array, "B T N H"], inputs: AttentionInputs
    ) -> Float[Array, "B T N H"]:
        rope = self.layer.rope
        if rope is None:
            return x
        return apply_rope(x, inputs.cos_sin[rope, self.layer.head_dim], rope.interleaved)

    def _split_heads(
        self, x: Float[Array, "B T N*H"], norm: Norm | None
    ) -> Float[Array, "B T N H"]:
        """Splits a projection into heads; the norm goes over each head or over all of them.

        They are clipped where the decoder does so.
        """
        shape, limit = (*x.shape[:-1], -1, self.layer.head_dim), self.config.qkv_clip
        if norm is not None and self.config.qk_norm == "projection":
            x = norm(x).reshape(shape)
        elif norm is not None:
            x = norm(x.reshape(shape))
        else:
            x = x.reshape(shape)
        return x if limit is None else jnp.clip(x, -limit, limit)


def _make_qk_norm(config: DecoderConfig, layer: LayerConfig, size: int, axis: str) -> Norm | None:
    """The norm of queries or keys: of each head, or of a whole projection of this size."""
    head_dim = layer.head_dim
    if config.qk_norm is None:
        return None
    if config.qk_norm == "head":
        return Norm(config, head_dim, None)
    if config.qk_norm == "unscaled":
        return None if layer.rope is None else Norm(config, head_dim, None, scaled=False)
    return Norm(
        config, size if config.qk_norm == "projection" else (size // head_dim, head_dim), axis
    )


def _make_ffn(config: DecoderConfig, layer: LayerConfig, rngs: nnx.Rngs) -> Any:
    """The feed-forward layer, or the experts, of a layer that has them."""
    if not layer.has_ffn:
        return None
    if layer.is_moe:
        return MoE(config, rngs)
    return FeedForward(config, layer.ffn_dim, rngs, layer.activation_sparsity)


class LayerCache(NamedTuple):
    """What a layer keeps of the tokens it has read: keys and values, a state, or both.

    Attributes:
        kv: the keys and values that its attention used.
        state: after each row.
    """

    kv: KVPair | None = None
    state: LayerState | None = None


class TransformerLayer(nnx.Module):
    """A transformer layer: attention, then a feed-forward layer, each added to its input.

    Some layers have a mixer that keeps a state in place of attention, or beside it.
    """

    def __init__(self, config: DecoderConfig, layer: LayerConfig, rngs: nnx.Rngs):
        def make_norm(needed: bool) -> Norm | None:
            return Norm(config, config.embed_dim) if needed else None

        mixes_tokens = layer.has_attention or layer.has_state
        self.attention_norm = make_norm(mixes_tokens and config.pre_norm)
        kind = LatentAttention if config.latent_attention is not None else Attention
        self.attention = kind(config, layer, rngs) if layer.has_attention else None
        self.mixer = make_mixer(config, rngs) if layer.has_state else None
        self.attention_post_norm = make_norm(config.post_norm)
        has_ffn_norm = config.pre_norm and config.residual != "parallel_shared"
        self.ffn_norm = make_norm(layer.has_ffn and has_ffn_norm)
        self.ffn = _make_ffn(config, layer, rngs)
        self.dense_with_moe = DenseWithMoE(config, rngs) if config.dense_with_moe else None
        self.ffn_post_norm = make_norm(layer.has_ffn and config.post_norm)
        has_gate = bool(config.per_layer_embedding_dim)
        self.per_layer_gate = PerLayerGate(config, rngs) if has_gate else None
        self.scale = nnx.Param(jnp.ones(1), axes=(None,)) if config.layer_scale else None
        self.altup = AltUp(config, rngs) if config.altup is not None else None
        self.laurel = Laurel(config, rngs) if config.altup is not None else None
        self.residual, self.residual_scale = config.residual, config.residual_scale
        self.norms_sums = config.norms_sums
        self.config = config

    def __call__(
        self,
        x: Float[Array, "B T D"],
        inputs: AttentionInputs,
        per_layer_embedding: Float[Array, "B T E"] | None = None,
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        """The layer's output, and what it keeps.

        With ``inputs.output_positions`` all that follows attention is computed for these tokens
        alone, and the output is [1, M, D]. A token with several streams has them side by side.
        """
        if self.altup is not None:
            return self._update_streams(self.altup, x, inputs, per_layer_embedding)
        x, kept = self._transform(x, inputs)
        # the end of a layer in some families
        if self.per_layer_gate is not None and per_layer_embedding is not None:
            x = x + self.per_layer_gate(x, inputs.select_outputs(per_layer_embedding))
        return x if self.scale is None else x * self.scale[...].astype(x.dtype), kept

    def _update_streams(
        self,
        altup: AltUp,
        x: Float[Array, "B T S*D"],
        inputs: AttentionInputs,
        per_layer_embedding: Float[Array, "B T E"] | None,
    ) -> tuple[Float[Array, "B T S*D"], LayerCache]:
        """Predicts all streams, computes the active one, and corrects the others by it."""
        predicted = altup.predict(x)
        computed, kept = self._transform(altup.select_active(predicted), inputs)
        streams = altup.correct(inputs.select_outputs(predicted), computed)
        if self.per_layer_gate is not None and per_layer_embedding is not None:
            active = altup.scale_active(streams)
            update = self.per_layer_gate(active, inputs.select_outputs(per_layer_embedding))
            streams = altup.add_to_others(streams, update)
        return streams, kept

    def _transform(
        self, x: Float[Array, "B T D"], inputs: AttentionInputs
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        """Attention or mixer, then the feed-forward layer; and what the layer keeps."""
        # attention, or what is in its place
        normed = x if self.attention_norm is None else self.attention_norm(x)
        update, kept = self._mix_tokens(normed, inputs)
        x, normed = inputs.select_outputs(x), inputs.select_outputs(normed)
        after_attention = x if update is None else self._add(x, update, self.attention_post_norm)
        if self.laurel is not None:
            after_attention = (after_attention + self.laurel(normed)) * 2**-0.5
        if self.ffn is None:
            return after_attention, kept
        # feed-forward; with parallel residuals it reads what attention read
        if self.residual == "sequential":
            x = after_attention
        if self.residual != "parallel_shared":
            normed = x if self.ffn_norm is None else self.ffn_norm(x)
        update = self.ffn(normed)
        if self.dense_with_moe is not None:
            update = self.dense_with_moe(update, x)
        return self._add(after_attention, update, self.ffn_post_norm), kept

    def _mix_tokens(
        self, x: Float[Array, "B T D"], inputs: AttentionInputs
    ) -> tuple[Float[Array, "B T D"] | None, LayerCache]:
        """The output of attention and mixer (at ``output_positions``), and what they keep.

        None where the layer has only a feed-forward layer.
        """
        factors, update, kv = self.config.multipliers, None, None
        if self.attention is not None:
            update, kv = self.attention(scale(x, factors.attention_input), inputs)
            update = scale(update, factors.attention_output)
        if self.mixer is None:
            return update, LayerCache(kv=kv)
        assert inputs.starts is not None
        state = inputs.state
        if state is None:
            state = begin_state(self.config, x.dtype).repeat(x.shape[0])
        mixed, state = self.mixer(scale(x, factors.mixer_input), state, inputs.starts)
        mixed = self.mixer.output(inputs.select_outputs(mixed))
        mixed = scale(mixed, factors.mixer_output)
        return mixed if update is None else update + mixed, LayerCache(kv=kv, state=state)

    def _add(
        self, x: Float[Array, "B T D"], update: Float[Array, "B T D"], norm: Norm | None
    ) -> Float[Array, "B T D"]:
        if norm is not None and not self.norms_sums:
            update = norm(update)
        x = x + (update if self.residual_scale == 1 else update * self.residual_scale)
        return norm(x) if norm is not None and self.norms_sums else x
