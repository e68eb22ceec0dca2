"""The prefix: what is prepended to every question, encoded once and attended to from everywhere.

Prompt tuning, few-shot prompting and chain of thought differ only in the prefix (2104.08691,
section 2; 2005.14165; 2201.11903). With causal attention a prefix sees nothing of what follows it,
so sharing its keys and values is exact: logits and gradients are those of repeating it in every
row. For a layer that keeps a state, the prefix is this state, with which every text begins.

Axes: B rows, T tokens, P prefix tokens, K key/value heads, H head size, D embedding,
N members of an ensemble, M prefixes side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import KVPair, PackedRows
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import UNROLLED, Execution
from adapt_jax.decoders.states import LayerState

__all__ = ["Prefix", "PrefixCache", "PrefixCaches", "SoftPrompt", "encode_prefix", "round_up"]

PREFIX_BUCKET = 128  # prefixes are padded to multiples of this, so that compiled code is reused


class SoftPrompt(nnx.Module):
    """Learned embeddings, [P, D], float32 whatever the decoder computes in (2104.08691).

    An ensemble, [N, P, D], is N soft prompts of one length for one task (section 6).

    Args:
        before_bos: whether the soft prompt precedes BOS, as in PEFT, or follows it.
    """

    def __init__(
        self, embeddings: Float[Array, "P D"] | Float[Array, "N P D"], before_bos: bool = True
    ):
        embeddings = jnp.asarray(embeddings, jnp.float32)
        axes = (*(None,) * (embeddings.ndim - 1), "embed")
        self.embeddings = nnx.Param(embeddings, axes=axes)
        self.before_bos = before_bos

    def __len__(self) -> int:
        """The number of tokens; of an ensemble, that of each member."""
        return self.embeddings.shape[-2]

    @property
    def ensemble_size(self) -> int | None:
        """The number of members; None for a single soft prompt."""
        return self.embeddings.shape[0] if self.embeddings.ndim == 3 else None

    @property
    def members(self) -> "list[SoftPrompt]":
        """The members of an ensemble; of a single soft prompt, itself."""
        if not self.ensemble_size:
            return [self]
        return [SoftPrompt(rows, self.before_bos) for rows in self.embeddings[...]]


@dataclass(frozen=True)
class Prefix:
    """A sequence of parts, each token ids or a SoftPrompt."""

    parts: tuple[tuple[int, ...] | Array | SoftPrompt, ...] = ()

    def __len__(self) -> int:
        """The number of tokens."""
        return sum(len(part) for part in self.parts)

    def embeddings(self, decoder: Decoder, dtype: Any = jnp.float32) -> Float[Array, "P D"]:
        """The prefix as input embeddings of this decoder."""
        rows = [
            decoder.to_input_embeddings(part.embeddings[...].astype(dtype))
            if isinstance(part, SoftPrompt)
            else decoder.embed(jnp.asarray(part, jnp.int32), dtype)
            for part in self.parts
            if len(part)
        ]
        return jnp.concatenate(rows) if rows else decoder.embed(jnp.zeros(0, jnp.int32), dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixCache:
    """What the layers of a decoder keep of a prefix.

    Attributes:
        layers: keys and values, [K, P, H] each, of ``DecoderConfig.layers_with_kv_cache``; then
            the states of ``DecoderConfig.layers_with_state``.
        real_tokens: how many of the P tokens are real, the others being padding; None: all.
        padded: P, or 0 where there is no prefix.
    """

    layers: list[KVPair | LayerState]
    real_tokens: Int[Array, ""] | int | None
    padded: int = field(metadata={"static": True})

    @property
    def length(self) -> Int[Array, ""] | int:
        """The number of real tokens."""
        return self.padded if self.real_tokens is None else self.real_tokens

    @property
    def blocks(self) -> list[Any] | None:
        """The ``prefix`` argument of ``Decoder.__call__``; None where there is no prefix."""
        if self.padded == 0:
            return None
        is_full = isinstance(self.length, int) and self.length == self.padded
        mask = None if is_full else jnp.arange(self.padded) < self.length
        return _add_masks(self.layers, mask)


def _add_masks(layers: Sequence[KVPair | LayerState], mask: Array | None) -> list[Any]:
    """Keys and values with the mask of who attends to them; states as they are."""
    return [one if isinstance(one, LayerState) else (*one, mask) for one in layers]


def _add_prefix_axis(layers: Sequence[KVPair | LayerState]) -> list[Any]:
    """Keys and values as they are; states of a single prefix with an axis of prefixes."""
    return [
        jax.tree.map(lambda x: x[None], one) if isinstance(one, LayerState) else one
        for one in layers
    ]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixCaches:
    """Several prefixes side by side, of which each row attends to one.

    This is the mixed-task batch of 2104.08691, section 3. The rows attend to all prefixes at once,
    and a mask hides those that are not theirs.

    Attributes:
        layers: keys and values [K, P, H] as in PrefixCache, P over all prefixes; and states with
            M as their first axis.
        lengths: of each of the M prefixes.
        owner: the prefix that each of the P tokens belongs to; -1 is padding.
        positions: of each of the P tokens in its prefix.
    """

    layers: list[KVPair | LayerState]
    lengths: Int[Array, " M"]
    owner: Int[Array, " P"]
    positions: Int[Array, " P"]

    @staticmethod
    def from_cache(cache: PrefixCache) -> "PrefixCaches":
        """Makes the caches of a single prefix, with its padding."""
        columns = jnp.arange(cache.padded)
        owner = jnp.where(columns < cache.length, 0, -1).astype(jnp.int32)
        real = jnp.asarray(cache.length, jnp.int32)[None]
        return PrefixCaches(_add_prefix_axis(cache.layers), real, owner, columns)

    @staticmethod
    def concatenate(caches: Sequence[PrefixCache]) -> "PrefixCaches":
        """Puts these prefixes side by side; their lengths must be known (not traced)."""
        lengths = [int(cache.length) for cache in caches]
        if len(caches) == 1:  # its arrays are made on the host, where nothing is compiled
            columns = np.arange(caches[0].padded, dtype=np.int32)
            owner = np.where(columns < lengths[0], 0, -1).astype(np.int32)
            layers = _add_prefix_axis(caches[0].layers)
            length = jnp.asarray(lengths, jnp.int32)
            return PrefixCaches(layers, length, jnp.asarray(owner), jnp.asarray(columns))
        # real tokens only, then padding up to the bucket
        padding = round_up(sum(lengths)) - sum(lengths)
        owner_ids = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        nonempty = [cache for cache in caches if cache.padded]

        def concatenate_tokens(*arrays: Array) -> Array:
            real = [x[:, : int(one.length)] for x, one in zip(arrays, nonempty, strict=True)]
            return jnp.pad(jnp.concatenate(real, axis=1), ((0, 0), (0, padding), (0, 0)))

        def stack_states(*arrays: Array) -> Array:
            # rows behind an empty prefix begin with a state of zeros
            states, empty = iter(arrays), jnp.zeros_like(arrays[0])
            return jnp.stack([next(states) if cache.padded else empty for cache in caches])

        layers = [
            jax.tree.map(
                stack_states if isinstance(of_layer[0], LayerState) else concatenate_tokens,
                *of_layer,
            )
            for of_layer in zip(*(cache.layers for cache in nonempty), strict=True)
        ]
        return PrefixCaches(
            layers,
            jnp.asarray(lengths, jnp.int32),
            jnp.asarray(np.pad(owner_ids, (0, padding), constant_values=-1), jnp.int32),
            jnp.asarray(np.pad(positions, (0, padding)), jnp.int32),
        )

    def blocks(self, which: Int[Array, " B"], tokens: int) -> list[Any] | None:
        """The ``prefix`` argument of ``Decoder.__call__``; None where there is no prefix.

        Args:
            which: the prefix of each row.
            tokens: T, the number of tokens in a row.
        """
        if not self.layers:
            return None
        mask = self.owner == 0
        if self.lengths.shape[0] > 1:
            mask = jnp.repeat((self.owner == which[:, None])[:, None], tokens, axis=1)
        layers = [
            jax.tree.map(lambda x: x[which], one) if isinstance(one, LayerState) else one
            for one in self.layers
        ]
        return _add_masks(layers, mask)


def encode_prefix(
    decoder: Decoder,
    embeddings: Float[Array, "P D"],
    length: Int[Array, ""] | int | None = None,
    execution: Execution = UNROLLED,
) -> PrefixCache:
    """Runs the decoder over a prefix once. Differentiable in ``embeddings`` and the weights.

    Args:
        embeddings: of the prefix, possibly with padding after it.
        length: how many of them are real; by default all.
        execution: how the layers run on the platform.
    """
    padded = embeddings.shape[0]
    if padded == 0:
        return PrefixCache([], None, 0)
    positions = jnp.arange(padded)[None]
    # causal, and padding attends to nothing
    real = jnp.arange(padded) < (padded if length is None else length)
    rows = PackedRows(real[None].astype(jnp.int32))
    _, kept = decoder(embeddings[None], positions, rows, execution=execution)
    return PrefixCache(jax.tree.map(lambda x: x[0], kept), length, padded)


def round_up(length: int, multiple: int = PREFIX_BUCKET) -> int:
    """The length rounded up to a multiple of another number."""
    return -(-length // multiple) * multiple
