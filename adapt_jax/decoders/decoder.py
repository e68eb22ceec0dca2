"""The one decoder: embeddings in, hidden states out, with a shared prefix and a cache.

Axes: B rows, T tokens, P prefix tokens, S cache slots, D embedding, N query heads,
K key/value heads, H head size, F feed-forward, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.activations import ACTIVATIONS
from adapt_jax.decoders.attention import Block, KeysValues, attend, within
from adapt_jax.decoders.config import DecoderConfig, LayerKind
from adapt_jax.decoders.experts import MixedExperts
from adapt_jax.decoders.rope import Rope, rotate


class Linear(nnx.Module):
    """y = x W (+ b) (+ scale · x A B when LoRA factors were attached; 2106.09685, section 4.1)."""

    def __init__(
        self, rngs: nnx.Rngs, size_in: int, size_out: int, axes: tuple[str, str], bias: bool
    ):
        kernel = jax.random.normal(rngs.params(), (size_in, size_out)) * size_in**-0.5
        self.kernel = nnx.Param(kernel, axes=axes)
        self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[1:]) if bias else None
        self.lora: Any = nnx.data(None)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y if self.lora is None else y + self.lora(x)


class Norm(nnx.Module):
    """Root mean square norm (1910.07467) or layer norm (1607.06450), in float32."""

    def __init__(self, config: DecoderConfig, size: int, axis: str | None = "embed"):
        start = jnp.zeros(size) if config.norm == "rms_plus_one" else jnp.ones(size)
        self.scale = nnx.Param(start, axes=(axis,))
        self.bias = nnx.Param(jnp.zeros(size), axes=(axis,)) if config.norm_bias else None
        self.kind, self.eps = config.norm, config.norm_eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide, scale = x.astype(jnp.float32), self.scale[...].astype(jnp.float32)
        if self.kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        wide = wide * (1 + scale if self.kind == "rms_plus_one" else scale)
        if self.bias is not None:
            wide = wide + self.bias[...].astype(jnp.float32)
        return wide.astype(x.dtype)


def query_key_norm(config: DecoderConfig, size: int, axis: str) -> Norm | None:
    """The norm of queries or of keys: of each head, or of the whole projection of this size."""
    if config.qk_norm is None:
        return None
    whole = config.qk_norm == "projection"
    return Norm(config, size, axis) if whole else Norm(config, config.head_dim, None)


class Attention(nnx.Module):
    """Grouped-query attention (2305.13245)."""

    def __init__(self, config: DecoderConfig, kind: LayerKind, rngs: nnx.Rngs):
        embed, head, bias = config.embed_dim, config.head_dim, config.qkv_bias
        wide, narrow = config.num_heads * head, config.num_kv_heads * head
        self.query = Linear(rngs, embed, wide, ("embed", "heads"), bias)
        self.key = Linear(rngs, embed, narrow, ("embed", "kv_heads"), bias)
        self.value = Linear(rngs, embed, narrow, ("embed", "kv_heads"), bias)
        self.output = Linear(rngs, wide, embed, ("heads", "embed"), config.output_bias)
        self.query_norm = query_key_norm(config, wide, "heads")
        self.key_norm = query_key_norm(config, narrow, "kv_heads")
        self.config, self.kind = config, kind

    def __call__(
        self, x: Float[Array, "B T D"], inputs: "AttentionInputs"
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        rows, tokens, config = *x.shape[:2], self.config
        queries = self._heads(self.query(x), self.query_norm)
        keys = self._heads(self.key(x), self.key_norm)
        values = self._heads(self.value(x), None)
        if self.kind.rope is not None:
            turns, interleaved = inputs.turns[self.kind.rope], self.kind.rope.interleaved
            queries, keys = rotate(queries, turns, interleaved), rotate(keys, turns, interleaved)
        if inputs.growth is not None:
            queries = queries * inputs.growth.astype(queries.dtype)
        keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)  # [B, K, T, H]
        if inputs.cache is not None and inputs.write_at is not None:
            row, head = jnp.arange(rows)[:, None, None], jnp.arange(keys.shape[1])[:, None]
            where = row, head, (inputs.write_at[:, None] + jnp.arange(tokens))[:, None]
            kept_keys, kept_values = inputs.cache
            keys = kept_keys.at[where].set(keys.astype(kept_keys.dtype))
            values = kept_values.at[where].set(values.astype(kept_values.dtype))
        *front, own_mask = inputs.masks[self.kind.window]
        blocks: list[Block] = [(keys, values, own_mask)]
        if inputs.prefix is not None:
            blocks.insert(0, (inputs.prefix[0], inputs.prefix[1], front[0]))
        mixed = attend(queries, blocks, config.attention_scale, config.attention_softcap)
        return self.output(mixed.reshape(rows, tokens, -1)), (keys, values)

    def _heads(self, x: Float[Array, "B T NH"], norm: Norm | None) -> Float[Array, "B T N H"]:
        heads = (*x.shape[:-1], -1, self.config.head_dim)
        if norm is None:
            return x.reshape(heads)
        if self.config.qk_norm == "projection":
            return norm(x).reshape(heads)
        return norm(x.reshape(heads))


class FeedForward(nnx.Module):
    """Two projections with an activation between, or three (a gated one, 2002.05202)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        embed, ffn, bias = config.embed_dim, config.ffn_dim, config.mlp_bias
        gate = Linear(rngs, embed, ffn, ("embed", "ffn"), bias) if config.gated else None
        self.gate = gate
        self.up = Linear(rngs, embed, ffn, ("embed", "ffn"), bias)
        self.down = Linear(rngs, ffn, embed, ("ffn", "embed"), bias)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        activation = ACTIVATIONS[self.activation]
        if self.gate is None:
            return self.down(activation(self.up(x)))
        return self.down(activation(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """One transformer block: attention and feed-forward part, each added to its input."""

    def __init__(self, config: DecoderConfig, kind: LayerKind, rngs: nnx.Rngs):
        def norm(wanted: bool) -> Norm | None:
            return Norm(config, config.embed_dim) if wanted else None

        self.attention_norm = norm(config.pre_norm)
        self.attention = Attention(config, kind, rngs)
        self.attention_post_norm = norm(config.post_norm)
        self.ffn_norm = norm(config.pre_norm and config.residual != "parallel_shared")
        self.ffn = MixedExperts(config, rngs) if kind.experts else FeedForward(config, rngs)
        self.ffn_post_norm = norm(config.post_norm)
        self.residual, self.residual_scale = config.residual, config.residual_scale

    def __call__(
        self, x: Float[Array, "B T D"], inputs: "AttentionInputs"
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        normed = x if self.attention_norm is None else self.attention_norm(x)
        mixed, keys_values = self.attention(normed, inputs)
        attended = self._add(x, mixed, self.attention_post_norm)
        if self.residual == "sequential":
            x = attended
        if self.residual != "parallel_shared":
            normed = x if self.ffn_norm is None else self.ffn_norm(x)
        return self._add(attended, self.ffn(normed), self.ffn_post_norm), keys_values

    def _add(
        self, x: Float[Array, "B T D"], update: Float[Array, "B T D"], norm: Norm | None
    ) -> Float[Array, "B T D"]:
        update = update if norm is None else norm(update)
        return x + (update if self.residual_scale == 1 else update * self.residual_scale)


@dataclass(frozen=True)
class AttentionInputs:
    """What the attention of one layer sees besides the hidden states.

    Attributes:
        turns: of each kind of rotary positions, cosine and sine.
        growth: what queries are multiplied by, [B, T, 1, 1].
        masks: by window, one mask for each block (prefix, own).
        prefix, cache, write_at: as in Decoder.__call__, of this layer.
    """

    turns: Mapping[Rope, tuple[Array, Array]]
    growth: Array | None
    masks: Mapping[int | None, list[Array | None]]
    prefix: Block | None
    cache: KeysValues | None
    write_at: Array | None


# What the backward pass computes again: all of a layer, or all of it but its matrix products.
REMAT = {"layers": None, "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Decoder(nnx.Module):
    """A decoder-only transformer whose shape is all in ``config``."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (config.vocab_size, config.embed_dim)
        embedding = jax.random.normal(rngs.params(), shape) * config.embed_dim**-0.5
        self.embedding = nnx.Param(embedding, axes=("vocab", "embed"))
        places = config.learned_positions
        positions = jnp.zeros((places, config.embed_dim))
        self.positions = nnx.Param(positions, axes=(None, "embed")) if places else None
        self.layers = nnx.List(
            [Layer(config, config.layer(index), rngs) for index in range(config.num_layers)]
        )
        self.norm = Norm(config, config.embed_dim)
        tied = config.tie_embeddings
        axes = ("embed", "vocab")
        self.output = (
            None if tied else Linear(rngs, config.embed_dim, config.vocab_size, axes, False)
        )

    def embed(self, tokens: Int[Array, "*B T"], dtype: Any = jnp.float32) -> Float[Array, "*B T D"]:
        """Token ids to input embeddings."""
        embedding = self.embedding[...]
        if self.config.embedding_scale == 1:
            return embedding[tokens].astype(dtype)
        # Rounded as the weights are: Gemma was trained so.
        scale = jnp.asarray(self.config.embedding_scale, embedding.dtype)
        return (embedding[tokens] * scale).astype(dtype)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"] | None,
        *,
        prefix: list[Block] | None = None,
        prefix_positions: Int[Array, " P"] | None = None,
        cache: list[KeysValues] | None = None,
        write_at: Int[Array, " B"] | None = None,
        remat: str = "none",
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """Hidden states after the last norm, and each layer's keys and values.

        Args:
            embeddings: what stands in the rows; ``embed`` makes it from token ids.
            positions: absolute position of each token, the prefix counted. The tokens that one of
                them sees stand at consecutive positions, and so do a row's slots of the cache.
            mask: which of the S keys each token sees; S is T, or the cache's slots.
            prefix: per layer keys and values that all rows see (prefix.PrefixCache.blocks).
            prefix_positions: where these stand; 0, 1, 2 and so on, when not given.
            cache: per layer [B, K, S, H]; new keys go to slots ``write_at`` and on, and the
                updated cache is what comes back. Without it the fresh keys come back.
            remat: what the backward pass computes again rather than keeps, a name in REMAT.
        """
        config, x = self.config, embeddings
        if config.input_scale != 1:
            x = x * config.input_scale
        if self.positions is not None:
            x = x + self.positions[...][positions].astype(x.dtype)
        kinds = {config.layer(index) for index in range(config.num_layers)}
        turns = self._turns(kinds, positions, mask, alone=prefix is None and cache is None)
        masks = self._masks(kinds, positions, mask, prefix, prefix_positions, cache, write_at)
        growth = None
        if config.query_growth is not None:
            beta, length = config.query_growth
            growth = 1 + beta * jnp.log1p(positions // length)[:, :, None, None]
        keys_values = []
        for index, layer in enumerate(self.layers):
            inputs = AttentionInputs(
                turns,
                growth,
                masks,
                None if prefix is None else prefix[index],
                None if cache is None else cache[index],
                write_at,
            )
            run = partial(layer, inputs=inputs)
            x, fresh = (run if remat == "none" else jax.checkpoint(run, policy=REMAT[remat]))(x)
            keys_values.append(fresh)
        return self.norm(x), keys_values

    def _turns(
        self, kinds: set[LayerKind], positions: Array, mask: Array | None, alone: bool
    ) -> dict[Rope, tuple[Array, Array]]:
        """Cosine and sine of each kind of rotary positions.

        Where frequencies depend on the total length, it is the declared one, if that is beyond
        the pretrained one; else what stands alone counts its own tokens, as nothing can follow,
        and what has a prefix or a cache stays with the frequencies of the pretrained length.
        """
        config = self.config
        turns = {}
        for rope in {kind.rope for kind in kinds if kind.rope is not None}:
            length: Any = None
            if rope.limit is not None and config.context_length > rope.limit:
                length = config.context_length
            elif rope.limit is not None and alone:
                real = positions if mask is None else jnp.where(mask.any(axis=-1), positions, 0)
                length = jnp.max(real) + 1
            turns[rope] = rope.turns(positions, config.head_dim, length)
        return turns

    def _masks(
        self,
        kinds: set[LayerKind],
        positions: Array,
        mask: Array | None,
        prefix: list[Block] | None,
        prefix_positions: Array | None,
        cache: list[KeysValues] | None,
        write_at: Array | None,
    ) -> dict[int | None, list[Array | None]]:
        """By window, the masks of prefix (where there is one) and own keys."""
        plain = [mask] if prefix is None else [prefix[0][2], mask]
        own = positions
        if cache is not None and write_at is not None:
            slots = jnp.arange(cache[0][0].shape[2])
            own = (positions[:, 0] - write_at)[:, None] + slots
        places = [own]
        if prefix is not None:
            counted = jnp.arange(prefix[0][0].shape[1])
            places.insert(0, counted if prefix_positions is None else prefix_positions)
        most = sum(place.shape[-1] for place in places)
        masks: dict[int | None, list[Array | None]] = {}
        for window in {kind.window for kind in kinds}:
            if window is None or window >= most:  # everything is within reach
                masks[window] = plain
            else:
                masks[window] = [*within(window, list(zip(places, plain, strict=True)), positions)]
        return masks

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Next-token logits, float32. Ask only at the positions that need them."""
        if self.output is not None:
            logits = self.output(hidden).astype(jnp.float32)
        else:
            kernel = self.embedding[...].astype(hidden.dtype)
            logits = jnp.einsum("...d,vd->...v", hidden, kernel, preferred_element_type=jnp.float32)
        if self.config.logit_divisor != 1:
            logits = logits / self.config.logit_divisor
        if (cap := self.config.logit_softcap) is not None:
            logits = cap * jnp.tanh(logits / cap)
        return logits
