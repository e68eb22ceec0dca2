"""The prefix: what is prepended to every question, encoded once and attended to from everywhere.

Prompt tuning, few-shot prompting and chain of thought differ only in the prefix (2104.08691,
section 2; 2005.14165; 2201.11903). With causal attention a prefix sees nothing of what follows it,
so sharing its keys and values is exact: logits and gradients are those of repeating it in every
row.

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

from adapt_jax.decoders.attention import KVBlock, KVPair, PackedRows
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import UNROLLED, Execution

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
    """Keys and values of a prefix.

    Attributes:
        layers: [K, P, H] each, one entry for each of ``DecoderConfig.layers_with_kv_cache``.
        length: how many of the P tokens are real; the others are padding.
        padded: P, or 0 where there is no prefix.
    """

    layers: list[KVPair]
    length: Int[Array, ""] | int
    padded: int = field(metadata={"static": True})

    @property
    def blocks(self) -> list[KVBlock] | None:
        """The ``prefix`` argument of ``Decoder.__call__``; None where there is no prefix."""
        if self.padded == 0:
            return None
        is_full = isinstance(self.length, int) and self.length == self.padded
        mask = None if is_full else jnp.arange(self.padded) < self.length
        return [(keys, values, mask) for keys, values in self.layers]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixCaches:
    """Several prefixes side by side, of which each row attends to one.

    This is the mixed-task batch of 2104.08691, section 3. The rows attend to all prefixes at once,
    and a mask hides those that are not theirs.

    Attributes:
        layers: keys and values [K, P, H] as in PrefixCache, P over all prefixes.
        lengths: of each of the M prefixes.
        owner: the prefix that each of the P tokens belongs to; -1 is padding.
        positions: of each of the P tokens in its prefix.
    """

    layers: list[KVPair]
    lengths: Int[Array, " M"]
    owner: Int[Array, " P"]
    positions: Int[Array, " P"]

    @staticmethod
    def concatenate(caches: Sequence[PrefixCache]) -> "PrefixCaches":
        """Puts these prefixes side by side; their lengths must be known (not traced)."""
        lengths = [int(cache.length) for cache in caches]
        if len(caches) == 1:
            columns = jnp.arange(caches[0].padded)
            owner = jnp.where(columns < lengths[0], 0, -1)
            real = jnp.asarray(lengths, jnp.int32)
            return PrefixCaches(caches[0].layers, real, owner, columns)
        # real tokens only, then padding up to the bucket
        padding = round_up(sum(lengths)) - sum(lengths)
        owner_ids = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        nonempty = [cache for cache in caches if cache.padded]

        def concatenate_arrays(layer: int, key_or_value: int) -> Array:
            arrays = [one.layers[layer][key_or_value][:, : int(one.length)] for one in nonempty]
            return jnp.pad(jnp.concatenate(arrays, axis=1), ((0, 0), (0, padding), (0, 0)))

        num_layers = len(nonempty[0].layers) if nonempty else 0
        return PrefixCaches(
            [(concatenate_arrays(n, 0), concatenate_arrays(n, 1)) for n in range(num_layers)],
            jnp.asarray(lengths, jnp.int32),
            jnp.asarray(np.pad(owner_ids, (0, padding), constant_values=-1), jnp.int32),
            jnp.asarray(np.pad(positions, (0, padding)), jnp.int32),
        )

    def blocks(self, which: Int[Array, " B"], tokens: int) -> list[KVBlock] | None:
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
        return [(keys, values, mask) for keys, values in self.layers]


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
        return PrefixCache([], 0, 0)
    positions = jnp.arange(padded)[None]
    # causal, and padding attends to nothing
    real = jnp.arange(padded) < (padded if length is None else length)
    rows = PackedRows(real[None].astype(jnp.int32))
    _, kv = decoder(embeddings[None], positions, rows, execution=execution)
    layers = [(keys[0], values[0]) for keys, values in kv]
    return PrefixCache(layers, padded if length is None else length, padded)


def round_up(length: int, multiple: int = PREFIX_BUCKET) -> int:
    """The length rounded up to a multiple of another number."""
    return -(-length // multiple) * multiple
