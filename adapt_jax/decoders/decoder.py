"""The one decoder: embeddings in, hidden states out, with a shared prefix and a cache.

Axes: B rows, T tokens, P prefix tokens, S keys (cache slots), M tokens whose output is wanted,
D input embedding, K key/value heads, H head size, L layers, E per-layer embedding, V vocabulary.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.alibi import AlibiBias
from adapt_jax.decoders.altup import Streams
from adapt_jax.decoders.attention import KVBlock, PackedRows, sliding_window_masks
from adapt_jax.decoders.attention_inputs import AttentionInputs, QueryScaling, Reach
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.execution import UNROLLED, Execution
from adapt_jax.decoders.fused_attention import FusedAttention, choose_fused_attention
from adapt_jax.decoders.layer_stack import LayerStack
from adapt_jax.decoders.layers import Linear, Norm
from adapt_jax.decoders.per_layer_embeddings import PerLayerEmbeddings, look_up
from adapt_jax.decoders.products import multiply
from adapt_jax.decoders.rope import CosSin, Rope
from adapt_jax.decoders.states import TextStarts
from adapt_jax.decoders.transformer_layer import TransformerLayer

__all__ = ["Decoder"]


class Decoder(nnx.Module):
    """A decoder-only transformer, whose shape is all in ``config``."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        embed, vocab, input_dim = config.embed_dim, config.vocab_size, config.input_dim
        embedding = rngs.params.normal((vocab, input_dim)) * input_dim**-0.5
        self.embedding = nnx.Param(embedding, axes=("vocab", "embed"))
        num_positions = config.num_learned_positions + config.learned_position_offset
        positions = jnp.zeros((num_positions, embed))
        self.position_embedding = (
            nnx.Param(positions, axes=(None, "embed")) if config.num_learned_positions else None
        )
        self.input_norm = Norm(config, embed) if config.input_norm else None
        has_per_layer = bool(config.per_layer_embedding_dim)
        self.per_layer_embeddings = PerLayerEmbeddings(config, rngs) if has_per_layer else None
        self.streams = Streams(config, rngs) if config.altup is not None else None
        layers = range(config.num_layers)
        self.layers = nnx.List(
            [TransformerLayer(config, config.layer_config(n), rngs) for n in layers]
        )
        self.norm = Norm(config, embed) if config.final_norm else None
        untied, bias = not config.tie_embeddings, config.lm_head_bias
        self.output = Linear(rngs, input_dim, vocab, ("embed", "vocab"), bias) if untied else None
        into, out = (input_dim, embed, (None, "embed")), (embed, input_dim, ("embed", None))
        has_projections = bool(config.token_embed_dim)
        self.input_projection = Linear(rngs, *into, False) if has_projections else None
        self.output_projection = Linear(rngs, *out, False) if has_projections else None

    def embed(self, tokens: Int[Array, "*B T"], dtype: Any = jnp.float32) -> Float[Array, "*B T D"]:
        """The input embeddings of token ids.

        With per-layer embeddings, those of all layers are appended to the embedding itself,
        [*B, T, D + L·E], so that everything else passes on one array.
        """
        embeddings = look_up(self.embedding, tokens, self.config.embedding_scale, dtype)
        if self.per_layer_embeddings is None:
            return embeddings
        per_layer = self.per_layer_embeddings.embed(tokens, dtype)
        return jnp.concatenate([embeddings, per_layer], axis=-1)

    def to_input_embeddings(self, embeddings: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
        """Learned embeddings, which belong to no token, as input embeddings.

        Their per-layer embeddings are those of padding, as transformers has it for images.
        """
        if self.per_layer_embeddings is None or embeddings.shape[-1] > self.config.input_dim:
            return embeddings
        padding = jnp.full(embeddings.shape[:-1], self.config.pad_id or 0)
        per_layer = self.per_layer_embeddings.embed(padding, embeddings.dtype)
        return jnp.concatenate([embeddings, per_layer], axis=-1)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"] | PackedRows | None,
        *,
        prefix: list[Any] | None = None,
        prefix_positions: Int[Array, " P"] | None = None,
        cache: list[Any] | None = None,
        write_at: Int[Array, " B"] | None = None,
        output_positions: Int[Array, " M"] | None = None,
        keep_kv: bool = True,
        execution: Execution = UNROLLED,
    ) -> tuple[Float[Array, "B T D"] | Float[Array, "M D"], list[Any]]:
        """Hidden states after the last norm, and what the layers keep of the tokens.

        Args:
            embeddings: input embeddings of the rows, made by ``embed`` from token ids or by
                ``to_input_embeddings`` from learned ones.
            positions: of each token in its text, prefix included. The tokens that a token attends
                to have consecutive positions, and so do a row's slots of the cache.
            mask: which keys each token attends to; S is T, or the number of cache slots. For packed
                rows without a cache PackedRows, with which an accelerator needs no mask.
            prefix: keys, values and mask of a prefix that all rows share (PrefixCache.blocks).
                Like ``cache`` and the returned list, it has one entry for each of
                ``DecoderConfig.layers_with_kv_cache``, and then a LayerState for each of
                ``DecoderConfig.layers_with_state``. Every text in the rows begins with that.
            prefix_positions: of the prefix's keys; by default 0, 1, 2 and so on.
            cache: keys and values [B, K, S, H]. New ones are written to it, and the updated cache
                is returned. Without a cache the new keys and values are returned, [B, K, T, H].
                Layers with a state continue from that in the cache, and all tokens are real.
            write_at: the first slot of the cache for each row's new keys.
            output_positions: indices into the B·T tokens in row-major order. Only their hidden
                states are returned, [M, D], and the last layer computes little for the others.
            keep_kv: whether keys, values and states are returned. Otherwise the list is empty.
            execution: how the layers run on the platform.
        """
        x, per_layer = self._prepare_input(embeddings, positions)
        shared_inputs = self._make_shared_inputs(
            positions, mask, prefix, prefix_positions, cache, write_at, x.dtype, execution
        )
        stack = LayerStack(
            self.config,
            execution,
            shared_inputs,
            per_layer,
            prefix,
            cache,
            output_positions,
            keep_kv,
        )
        x, kept = stack.run(self.layers, x)
        x = x if output_positions is None else x[0]
        x = x if self.streams is None else self.streams.merge(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.output_projection is None else self.output_projection(x), kept

    def _make_shared_inputs(
        self,
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"] | PackedRows | None,
        prefix: list[Any] | None,
        prefix_positions: Int[Array, " P"] | None,
        cache: list[Any] | None,
        write_at: Int[Array, " B"] | None,
        dtype: Any,
        execution: Execution,
    ) -> AttentionInputs:
        """The inputs that are the same in all layers; arguments as in ``__call__``.

        Args:
            dtype: that the layers compute in.
        """
        config = self.config
        starts = None
        if config.layers_with_state:
            starts = TextStarts() if cache is not None else TextStarts.from_mask(mask)
        # in the order of the decoder: a set has another one in each process, which would not find
        # the code that an earlier process compiled
        kinds = dict.fromkeys(config.layer_config(index) for index in range(config.num_layers))
        layers = [layer for layer in kinds if layer.has_attention]
        # packed rows go to the accelerator's kernel where one fits, else through a mask
        fused = None
        if isinstance(mask, PackedRows):
            if prefix_positions is None and layers:
                fused = self._choose_fused_attention(mask, prefix, dtype, execution)
            mask = mask.mask
        alone = prefix is None and cache is None
        keys = (
            _find_key_positions(positions, prefix, prefix_positions, cache, write_at)
            if layers
            else ()
        )
        bias = None
        if config.alibi is not None:
            bias = AlibiBias(positions, keys, config.alibi, config.num_heads)
        return AttentionInputs(
            self._compute_cos_sin(layers, positions, mask, alone),
            _compute_query_scales(layers, positions),
            _make_masks(layers, positions, mask, prefix, keys) if fused is None and layers else {},
            write_at,
            fused_attention=fused,
            starts=starts,
            alibi_bias=bias,
        )

    def _choose_fused_attention(
        self, rows: PackedRows, prefix: list[KVBlock] | None, dtype: Any, execution: Execution
    ) -> FusedAttention | None:
        """The platform's kernel for packed rows; None where there is none, or a masked prefix."""
        if prefix is None:
            return choose_fused_attention(execution, rows, 0, self.config, dtype)
        keys, _, mask = prefix[0]
        if mask is not None:
            return None
        return choose_fused_attention(execution, rows, keys.shape[1], self.config, dtype)

    def _prepare_input(
        self, embeddings: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], list[Array | None]]:
        """The hidden states before the first layer, and the per-layer embeddings of each layer."""
        config, x = self.config, embeddings
        per_layer: list[Any] = [None] * config.num_layers
        if self.per_layer_embeddings is not None:
            x, per_layer = self.per_layer_embeddings(self.to_input_embeddings(x))
        if self.input_projection is not None:
            x = self.input_projection(x)
        if config.input_scale != 1:
            x = x * config.input_scale
        if self.input_norm is not None:
            x = self.input_norm(x)
        if self.position_embedding is not None:
            rows = positions + config.learned_position_offset
            x = x + self.position_embedding[...][rows].astype(x.dtype)
        return x if self.streams is None else self.streams.split(x), per_layer

    def _compute_cos_sin(
        self, layers: list[LayerConfig], positions: Array, mask: Array | None, alone: bool
    ) -> dict[tuple[Rope, int], CosSin]:
        """Cosine and sine of the tokens' angles, for each rope and head size of the layers.

        Some ropes depend on the length of the text. A context length beyond the pretrained one
        decides for every text. Otherwise a row that is ``alone``, without prefix or cache, counts
        its own tokens, as nothing can follow them. With a prefix or a cache the length is the
        pretrained one.
        """
        context_length = self.config.context_length
        cos_sin = {}
        for rope, head_dim in dict.fromkeys((layer.rope, layer.head_dim) for layer in layers):
            if rope is None:
                continue
            length: Any = None
            pretrained = rope.original_max_positions
            if pretrained is not None and context_length > pretrained:
                length = context_length
            elif pretrained is not None and alone:
                # padding, which attends to nothing, is no part of the length
                real = positions if mask is None else jnp.where(mask.any(axis=-1), positions, 0)
                length = jnp.max(real) + 1
            cos_sin[rope, head_dim] = rope.cos_sin(positions, head_dim, length)
        return cos_sin

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Next-token logits, float32. Compute them only at the positions that need them."""
        if self.output is not None:
            logits = self.output(hidden).astype(jnp.float32)
        else:
            kernel = self.embedding[...].astype(hidden.dtype)
            logits = multiply("...d,vd->...v", hidden, kernel, jnp.float32)
        if self.config.logit_divisor != 1:
            logits = logits / self.config.logit_divisor
        if (cap := self.config.logit_softcap) is not None:
            logits = cap * jnp.tanh(logits / cap)
        return logits


def _compute_query_scales(
    layers: list[LayerConfig], positions: Int[Array, "B T"]
) -> dict[QueryScaling, Float[Array, "B T 1 1"]]:
    """What multiplies the queries of layers that scale them, for each scaling."""
    scales = {}
    for scaling in dict.fromkeys(layer.query_scaling for layer in layers):
        if scaling is None:
            continue
        beta, length, offset = scaling
        scales[scaling] = 1 + beta * jnp.log1p((positions + offset) // length)[:, :, None, None]
    return scales


def _find_key_positions(
    positions: Int[Array, "B T"],
    prefix: list[Any] | None,
    prefix_positions: Int[Array, " P"] | None,
    cache: list[Any] | None,
    write_at: Int[Array, " B"] | None,
) -> tuple[Int[Array, "*B S"], ...]:
    """The positions of the keys of the prefix (if any), [P], and of own keys, [B, S].

    Own keys are those of the tokens, or of all slots of the cache. Arguments as in
    ``Decoder.__call__``.
    """
    own = positions
    if cache is not None and write_at is not None:
        slots = jnp.arange(cache[0][0].shape[2])
        own = (positions[:, 0] - write_at)[:, None] + slots
    if prefix is None:
        return (own,)
    default = jnp.arange(prefix[0][0].shape[1])
    return default if prefix_positions is None else prefix_positions, own


def _make_masks(
    layers: list[LayerConfig],
    positions: Int[Array, "B T"],
    mask: Bool[Array, "B T S"] | None,
    prefix: list[KVBlock] | None,
    key_positions: tuple[Int[Array, "*B S"], ...],
) -> dict[Reach, list[Array | None]]:
    """For each reach of the layers, the masks of the prefix (if any) and of own keys."""
    full = [mask] if prefix is None else [prefix[0][2], mask]
    num_keys = sum(block.shape[-1] for block in key_positions)
    masks: dict[Reach, list[Array | None]] = {}
    for window, chunk in dict.fromkeys((layer.window, layer.chunk) for layer in layers):
        reached: list[Array | None] = full
        # nothing is hidden where all keys lie within the window, and in the first chunk
        if window is not None and window < num_keys:
            blocks = list(zip(key_positions, reached, strict=True))
            reached = [*sliding_window_masks(window, blocks, positions)]
        if chunk is not None and chunk < num_keys:
            # back to the beginning of its chunk is as far as a token sees
            blocks = list(zip(key_positions, reached, strict=True))
            reached = [*sliding_window_masks(positions % chunk + 1, blocks, positions)]
        masks[window, chunk] = reached
    return masks
