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

from adapt_jax.decoders.attention import KVBlock, KVPair, attend, within
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.layers import FeedForward, Linear, Norm
from adapt_jax.decoders.moe import DenseWithMoE, MoE
from adapt_jax.decoders.per_layer_embeddings import (
    PerLayerEmbeddings,
    PerLayerGate,
    scaled_rows,
)
from adapt_jax.decoders.rope import Rope, rotate


def query_key_norm(config: DecoderConfig, size: int, head_dim: int, axis: str) -> Norm | None:
    """The norm of queries or of keys: of each head, or of the whole projection of this size."""
    if config.qk_norm is None:
        return None
    whole = config.qk_norm == "projection"
    return Norm(config, size, axis) if whole else Norm(config, head_dim, None)


class Attention(nnx.Module):
    """Grouped-query attention (2305.13245)."""

    def __init__(self, config: DecoderConfig, kind: LayerConfig, rngs: nnx.Rngs):
        embed, head, bias = config.embed_dim, kind.head_dim, config.qkv_bias
        wide, narrow = config.num_heads * head, kind.num_kv_heads * head
        own = kind.kv_shared_with is None

        def projection(wanted: bool) -> Linear | None:
            return Linear(rngs, embed, narrow, ("embed", "kv_heads"), bias) if wanted else None

        self.query = Linear(rngs, embed, wide, ("embed", "heads"), bias)
        self.key = projection(own)
        self.value = projection(own and not kind.attention_k_eq_v)
        self.output = Linear(rngs, wide, embed, ("heads", "embed"), config.output_bias)
        self.query_norm = query_key_norm(config, wide, head, "heads")
        self.key_norm = query_key_norm(config, narrow, head, "kv_heads") if own else None
        normed = own and config.value_norm
        self.value_norm = Norm(config, head, None, scaled=False) if normed else None
        self.config, self.kind = config, kind

    def __call__(
        self, x: Float[Array, "B T D"], inputs: "AttentionInputs"
    ) -> tuple[Float[Array, "B T D"], KVPair]:
        config = self.config
        queries = self._turned(self._heads(self.query(x), self.query_norm), inputs)
        if inputs.growth is not None:
            queries = queries * inputs.growth.astype(queries.dtype)
        keys, values = self._own(x, inputs) if inputs.read is None else inputs.read
        *prompt_prefix, own_mask = inputs.masks[self.kind.window]
        blocks: list[KVBlock] = [(keys, values, own_mask)]
        if inputs.prefix is not None:
            blocks.insert(0, (inputs.prefix[0], inputs.prefix[1], prompt_prefix[0]))
        mixed = attend(queries, blocks, config.attention_scale, config.attention_softcap)
        return self.output(inputs.wanted(mixed.reshape(*x.shape[:2], -1))), (keys, values)

    def _own(self, x: Float[Array, "B T D"], inputs: "AttentionInputs") -> KVPair:
        """Keys and values of this layer [B, K, T, H]; with a cache, all that stand in it."""
        assert self.key is not None
        rows, tokens = x.shape[:2]
        projected = self.key(x)
        values = self._heads(projected if self.value is None else self.value(x), self.value_norm)
        keys = self._turned(self._heads(projected, self.key_norm), inputs)
        keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)
        if inputs.cache is not None and inputs.write_at is not None:
            row, head = jnp.arange(rows)[:, None, None], jnp.arange(keys.shape[1])[:, None]
            where = row, head, (inputs.write_at[:, None] + jnp.arange(tokens))[:, None]
            kept_keys, kept_values = inputs.cache
            keys = kept_keys.at[where].set(keys.astype(kept_keys.dtype))
            values = kept_values.at[where].set(values.astype(kept_values.dtype))
        return keys, values

    def _turned(
        self, x: Float[Array, "B T N H"], inputs: "AttentionInputs"
    ) -> Float[Array, "B T N H"]:
        rope = self.kind.rope
        if rope is None:
            return x
        return rotate(x, inputs.turns[rope, self.kind.head_dim], rope.interleaved)

    def _heads(self, x: Float[Array, "B T NH"], norm: Norm | None) -> Float[Array, "B T N H"]:
        heads = (*x.shape[:-1], -1, self.kind.head_dim)
        if norm is None:
            return x.reshape(heads)
        if self.config.qk_norm == "projection":
            return norm(x).reshape(heads)
        return norm(x.reshape(heads))


class Layer(nnx.Module):
    """One transformer block: attention and feed-forward part, each added to its input."""

    def __init__(self, config: DecoderConfig, kind: LayerConfig, rngs: nnx.Rngs):
        def norm(wanted: bool) -> Norm | None:
            return Norm(config, config.embed_dim) if wanted else None

        self.attention_norm = norm(config.pre_norm)
        self.attention = Attention(config, kind, rngs)
        self.attention_post_norm = norm(config.post_norm)
        self.ffn_norm = norm(config.pre_norm and config.residual != "parallel_shared")
        ffn = kind.ffn_dim
        self.ffn = MoE(config, rngs) if kind.is_moe else FeedForward(config, ffn, rngs)
        self.dense_with_moe = DenseWithMoE(config, rngs) if config.dense_with_moe else None
        self.ffn_post_norm = norm(config.post_norm)
        self.per_layer_gate = PerLayerGate(config, rngs) if config.per_layer_embedding_dim else None
        self.scale = nnx.Param(jnp.ones(1), axes=(None,)) if config.layer_scale else None
        self.residual, self.residual_scale = config.residual, config.residual_scale

    def __call__(
        self,
        x: Float[Array, "B T D"],
        inputs: "AttentionInputs",
        given: Float[Array, "B T E"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KVPair]:
        """``given`` is what the tokens tell this layer, where they do (LayerInputs).

        Where only some tokens are asked for, what follows attention is computed for them alone.
        """
        normed = x if self.attention_norm is None else self.attention_norm(x)
        mixed, keys_values = self.attention(normed, inputs)
        x, normed = inputs.wanted(x), inputs.wanted(normed)
        attended = self._add(x, mixed, self.attention_post_norm)
        if self.residual == "sequential":
            x = attended
        if self.residual != "parallel_shared":
            normed = x if self.ffn_norm is None else self.ffn_norm(x)
        update = self.ffn(normed)
        if self.dense_with_moe is not None:
            update = self.dense_with_moe(update, x)
        x = self._add(attended, update, self.ffn_post_norm)
        if self.per_layer_gate is not None and given is not None:
            x = x + self.per_layer_gate(x, inputs.wanted(given))
        return x if self.scale is None else x * self.scale[...].astype(x.dtype), keys_values

    def _add(
        self, x: Float[Array, "B T D"], update: Float[Array, "B T D"], norm: Norm | None
    ) -> Float[Array, "B T D"]:
        update = update if norm is None else norm(update)
        return x + (update if self.residual_scale == 1 else update * self.residual_scale)


@dataclass(frozen=True)
class AttentionInputs:
    """What the attention of one layer sees besides the hidden states.

    Attributes:
        turns: of each kind of rotary positions and head size, cosine and sine.
        growth: what queries are multiplied by, [B, T, 1, 1].
        masks: by window, one mask for each block (prefix, own).
        prefix, cache, write_at: as in Decoder.__call__, of this layer.
        read: keys and values of the layer that this one reads, if it does.
        output_positions: which of the B·T tokens are wanted from this layer, [M]; all, if None.
    """

    turns: Mapping[tuple[Rope, int], tuple[Array, Array]]
    growth: Array | None
    masks: Mapping[int | None, list[Array | None]]
    prefix: KVBlock | None
    cache: KVPair | None
    write_at: Array | None
    read: KVPair | None
    output_positions: Array | None

    def wanted(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The tokens that are asked for, as one row [1, M, D], or all."""
        return (
            x
            if self.output_positions is None
            else x.reshape(1, -1, x.shape[-1])[:, self.output_positions]
        )


# What the backward pass computes again: all of a layer, or all of it but its matrix products.
REMAT = {"layers": None, "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Decoder(nnx.Module):
    """A decoder-only transformer whose shape is all in ``config``."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (config.vocab_size, config.embed_dim)
        embedding = rngs.params.normal(shape) * config.embed_dim**-0.5
        self.embedding = nnx.Param(embedding, axes=("vocab", "embed"))
        places = config.learned_positions
        positions = jnp.zeros((places, config.embed_dim))
        self.position_embedding = nnx.Param(positions, axes=(None, "embed")) if places else None
        self.per_layer_embeddings = (
            PerLayerEmbeddings(config, rngs) if config.per_layer_embedding_dim else None
        )
        self.layers = nnx.List(
            [Layer(config, config.layer_config(index), rngs) for index in range(config.num_layers)]
        )
        self.norm = Norm(config, config.embed_dim)
        tied = config.tie_embeddings
        axes = ("embed", "vocab")
        self.output = (
            None if tied else Linear(rngs, config.embed_dim, config.vocab_size, axes, False)
        )

    def embed(self, tokens: Int[Array, "*B T"], dtype: Any = jnp.float32) -> Float[Array, "*B T D"]:
        """Token ids to input embeddings; behind them stands what the tokens tell each layer."""
        embedded = scaled_rows(self.embedding, tokens, self.config.embedding_scale, dtype)
        if self.per_layer_embeddings is None:
            return embedded
        return jnp.concatenate([embedded, self.per_layer_embeddings.embed(tokens, dtype)], axis=-1)

    def to_input_embeddings(self, embeddings: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
        """Learned embeddings as input embeddings: they tell the layers what padding would."""
        if self.per_layer_embeddings is None or embeddings.shape[-1] > self.config.embed_dim:
            return embeddings
        padding = jnp.full(embeddings.shape[:-1], self.config.pad_id or 0)
        told = self.per_layer_embeddings.embed(padding, embeddings.dtype)
        return jnp.concatenate([embeddings, told], axis=-1)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"] | None,
        *,
        prefix: list[KVBlock] | None = None,
        prefix_positions: Int[Array, " P"] | None = None,
        cache: list[KVPair] | None = None,
        write_at: Int[Array, " B"] | None = None,
        output_positions: Int[Array, " M"] | None = None,
        remat: str = "none",
    ) -> tuple[Float[Array, "B T D"] | Float[Array, "M D"], list[KVPair]]:
        """Hidden states after the last norm, and each layer's keys and values.

        Args:
            embeddings: what stands in the rows; ``embed`` makes it from token ids, ``to_input_embeddings``
                from learned ones.
            positions: absolute position of each token, the prefix counted. The tokens that one of
                them sees stand at consecutive positions, and so do a row's slots of the cache.
            mask: which of the S keys each token sees; S is T, or the cache's slots.
            prefix: keys and values that all rows see (prefix.PrefixCache.blocks), of every layer
                that has its own (DecoderConfig.keepers), as with ``cache`` and what comes back.
            prefix_positions: where these stand; 0, 1, 2 and so on, when not given.
            cache: [B, K, S, H] of every such layer; new keys go to slots ``write_at`` and on, and
                the updated cache is what comes back. Without it the fresh keys come back.
            output_positions: which of the B·T tokens (in row-major order) hidden states are wanted of; theirs
                alone come back, [M, D], and the last layer computes little for the others.
            remat: what the backward pass computes again rather than keeps, a name in REMAT.
        """
        config, x = self.config, embeddings
        told: list[Any] = [None] * config.num_layers
        if self.per_layer_embeddings is not None:
            x, told = self.per_layer_embeddings(self.to_input_embeddings(x))
        if config.input_scale != 1:
            x = x * config.input_scale
        if self.position_embedding is not None:
            x = x + self.position_embedding[...][positions].astype(x.dtype)
        kinds = {config.layer_config(index) for index in range(config.num_layers)}
        turns = self._turns(kinds, positions, mask, alone=prefix is None and cache is None)
        masks = self._masks(kinds, positions, mask, prefix, prefix_positions, cache, write_at)
        growth = None
        if config.llama_4_scaling is not None:
            beta, length = config.llama_4_scaling
            growth = 1 + beta * jnp.log1p(positions // length)[:, :, None, None]
        layers_with_kv_cache = config.layers_with_kv_cache
        keys_values: list[KVPair] = []
        for index, layer in enumerate(self.layers):
            reads = config.layer_config(index).kv_shared_with
            at = layers_with_kv_cache.index(index if reads is None else reads)
            inputs = AttentionInputs(
                turns,
                growth,
                masks,
                None if prefix is None else prefix[at],
                None if cache is None else cache[at],
                write_at,
                None if reads is None else keys_values[at],
                output_positions if index == config.num_layers - 1 else None,
            )
            run = partial(layer, inputs=inputs, given=told[index])
            x, fresh = (run if remat == "none" else jax.checkpoint(run, policy=REMAT[remat]))(x)
            if reads is None:
                keys_values.append(fresh)
        return self.norm(x if output_positions is None else x[0]), keys_values

    def _turns(
        self, kinds: set[LayerConfig], positions: Array, mask: Array | None, alone: bool
    ) -> dict[tuple[Rope, int], tuple[Array, Array]]:
        """Cosine and sine of each kind of rotary positions and head size.

        Where frequencies depend on the total length, it is the declared one, if that is beyond
        the pretrained one; else what stands alone counts its own tokens, as nothing can follow,
        and what has a prefix or a cache stays with the frequencies of the pretrained length.
        """
        config = self.config
        turns = {}
        for rope, head_dim in {(kind.rope, kind.head_dim) for kind in kinds}:
            if rope is None:
                continue
            length: Any = None
            if rope.limit is not None and config.context_length > rope.limit:
                length = config.context_length
            elif rope.limit is not None and alone:
                real = positions if mask is None else jnp.where(mask.any(axis=-1), positions, 0)
                length = jnp.max(real) + 1
            turns[rope, head_dim] = rope.turns(positions, head_dim, length)
        return turns

    def _masks(
        self,
        kinds: set[LayerConfig],
        positions: Array,
        mask: Array | None,
        prefix: list[KVBlock] | None,
        prefix_positions: Array | None,
        cache: list[KVPair] | None,
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
