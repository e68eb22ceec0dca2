"""What attention reads besides the hidden states, whatever kind of attention a layer has.

Axes: B rows, T tokens, N query heads, K key/value heads, S keys (cache slots), P prefix tokens,
H head size, D embedding, M tokens whose output is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
from jaxtyping import Array, Float

from adapt_jax.decoders.alibi import AlibiBias
from adapt_jax.decoders.array_rows import write_columns
from adapt_jax.decoders.attention import KVBlock, KVPair, attend
from adapt_jax.decoders.config import LayerConfig
from adapt_jax.decoders.fused_attention import FusedAttention
from adapt_jax.decoders.rope import CosSin, Rope
from adapt_jax.decoders.states import LayerState, TextStarts

__all__ = ["AttentionInputs", "QueryScaling", "Reach"]

Reach = tuple[int | None, int | None]  # how far a token sees: its window, and its chunk
QueryScaling = tuple[float, int, int]  # as in LayerConfig


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of attention, or of a mixer in its place, besides the hidden states.

    Attributes:
        cos_sin: for each (rope, head size), cosine and sine of the tokens' angles.
        query_scales: for each ``query_scaling`` of the layers, what multiplies queries,
            [B, T, 1, 1].
        masks: for each (window, chunk), the masks of the blocks (prefix where there is one, own
            keys).
        write_at: [B], as in ``Decoder.__call__``.
        prefix, cache: as in ``Decoder.__call__``, the entries of this layer.
        shared_kv: keys and values of the layer that this one shares them with.
        output_positions: [M], which of the B·T tokens the layer's output is wanted of; None: all.
        fused_attention: the kernel that attends, in place of the einsum form and its masks.
        starts: where texts begin in the rows; None where no layer keeps a state.
        alibi_bias: of attention scores, where the decoder has ALiBi.
        state: of this layer, from the cache or the prefix; None before the first token.
    """

    cos_sin: Mapping[tuple[Rope, int], CosSin]
    query_scales: Mapping[QueryScaling, Array]
    masks: Mapping[Reach, list[Array | None]]
    write_at: Array | None
    prefix: KVBlock | None = None
    cache: KVPair | None = None
    shared_kv: KVPair | None = None
    output_positions: Array | None = None
    fused_attention: FusedAttention | None = None
    starts: TextStarts | None = None
    alibi_bias: AlibiBias | None = None
    state: LayerState | None = None

    def select_outputs(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The tokens at ``output_positions`` as one row [1, M, D], or all tokens."""
        if self.output_positions is None:
            return x
        return x.reshape(1, -1, x.shape[-1])[:, self.output_positions]

    def scale_queries(
        self, queries: Float[Array, "B T N H"], layer: LayerConfig
    ) -> Float[Array, "B T N H"]:
        """Queries scaled by their positions, where the layer scales them."""
        if layer.query_scaling is None:
            return queries
        return queries * self.query_scales[layer.query_scaling].astype(queries.dtype)

    def write_to_cache(
        self, keys: Float[Array, "B K T H"], values: Float[Array, "B K T H"]
    ) -> KVPair:
        """All slots of the cache with these keys and values in them; without a cache themselves."""
        if self.cache is None or self.write_at is None:
            return keys, values
        cached_keys, cached_values = self.cache
        keys = write_columns(cached_keys, keys.astype(cached_keys.dtype), self.write_at)
        values = write_columns(cached_values, values.astype(cached_values.dtype), self.write_at)
        return keys, values

    def attend(
        self,
        queries: Float[Array, "B T N H"],
        own: KVPair,
        prefix: KVPair | None,
        layer: LayerConfig,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Float[Array, " N"] | None = None,
    ) -> Float[Array, "B T N H"]:
        """Attention over the prefix, where there is one, and the rows' own keys.

        Args:
            own: keys and values [B, K, S, H] of the rows.
            prefix: keys and values [K, P, H] that all rows share.
            layer: its window and chunk say how far a token sees.
            scale, softcap, sinks: as in ``attention.attend``.
        """
        if self.fused_attention is not None:
            return self.fused_attention(
                queries, *own, prefix, window=layer.window, scale=scale, softcap=softcap
            )
        *prefix_mask, own_mask = self.masks[layer.window, layer.chunk]
        blocks: list[KVBlock] = [(*own, own_mask)]
        if prefix is not None:  # a block of its own
            blocks.insert(0, (*prefix, prefix_mask[0]))
        return attend(queries, blocks, scale, softcap, sinks, self.alibi_bias)


def _flatten(inputs: AttentionInputs) -> tuple[list[Any], Any]:
    """The arrays of all fields, and apart from them the keys of its mappings."""
    values = [getattr(inputs, field.name) for field in fields(AttentionInputs)]
    keys = [tuple(one) if isinstance(one, Mapping) else None for one in values]
    arrays = [[*one.values()] if isinstance(one, Mapping) else one for one in values]
    return arrays, tuple(keys)


def _unflatten(keys: Any, arrays: Any) -> AttentionInputs:
    values: list[Any] = [
        one if names is None else dict(zip(names, one, strict=True))
        for names, one in zip(keys, arrays, strict=True)
    ]
    return AttentionInputs(*values)


# JAX sorts the keys of a dict, and ropes have no order; so each mapping's keys go beside the arrays
jax.tree_util.register_pytree_node(AttentionInputs, _flatten, _unflatten)
