"""What stands in front of the question: encoded once, attended from everywhere.

Prompt tuning, few-shot and chain of thought differ only in the prefix (2104.08691, section 2;
2005.14165; 2201.11903). Causal attention lets a prefix see nothing of what follows, so sharing its
keys and values is exact: the same logits and gradients as repeating it in every row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import KVBlock, KVPair
from adapt_jax.decoders.decoder import Decoder

PREFIX_BUCKET = (
    128  # prefix lengths are padded to multiples of this, so that compiled code is reused
)


class SoftPrompt(nnx.Module):
    """Learned embeddings, [P, D], float32 whatever the decoder computes in.

    ``before_bos`` says on which side of BOS it stands (PEFT's order is before). An ensemble, [N, P,
    D], is N soft prompts of one length for one task (2104.08691, section 6).
    """

    def __init__(
        self, embeddings: Float[Array, "P D"] | Float[Array, "N P D"], before_bos: bool = True
    ):
        embeddings = jnp.asarray(embeddings, jnp.float32)
        axes = (*(None,) * (embeddings.ndim - 1), "embed")
        self.embeddings = nnx.Param(embeddings, axes=axes)
        self.before_bos = before_bos

    def __len__(self) -> int:
        """In tokens; of an ensemble, that of each member."""
        return self.embeddings.shape[-2]

    @property
    def ensemble_size(self) -> int | None:
        """How many members it has; None where it is no ensemble."""
        return self.embeddings.shape[0] if self.embeddings.ndim == 3 else None

    @property
    def members(self) -> "list[SoftPrompt]":
        """One by one; itself, where it is no ensemble."""
        if not self.ensemble_size:
            return [self]
        return [SoftPrompt(rows, self.before_bos) for rows in self.embeddings[...]]


@dataclass(frozen=True)
class Prefix:
    """A sequence of parts, each some token ids or a SoftPrompt."""

    parts: tuple[tuple[int, ...] | Array | SoftPrompt, ...] = ()

    def __len__(self) -> int:
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
    """Keys and values of a prefix, [K, P, H] for each layer that has its own (config.keepers).

    The first ``length`` of P are real.
    """

    layers: list[KVPair]
    length: Int[Array, ""] | int
    padded: int = field(metadata={"static": True})

    @property
    def blocks(self) -> list[KVBlock] | None:
        """Per layer, in the form that Decoder takes; None where there is no prefix."""
        if self.padded == 0:
            return None
        whole = isinstance(self.length, int) and self.length == self.padded
        mask = None if whole else jnp.arange(self.padded) < self.length
        return [(keys, values, mask) for keys, values in self.layers]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixCaches:
    """Prefixes side by side, for rows of which each has its own: the mixed-task batch of
    2104.08691, section 3. All rows attend to all of them, and a mask hides what is not theirs.

    Attributes:
        layers: per layer keys and values [K, P, H], P over all prefixes.
        lengths: of each of the M prefixes.
        owner: to which of them a column belongs; -1 is padding.
        positions: where in its prefix a column stands.
    """

    layers: list[KVPair]
    lengths: Int[Array, " M"]
    owner: Int[Array, " P"]
    positions: Int[Array, " P"]

    @staticmethod
    def concatenate(caches: Sequence[PrefixCache]) -> "PrefixCaches":
        """These, in their order. Lengths must be known (not traced)."""
        real = [int(cache.length) for cache in caches]
        lengths = jnp.asarray(real, jnp.int32)
        if len(caches) == 1:
            columns = jnp.arange(caches[0].padded)
            owner = jnp.where(columns < real[0], 0, -1)
            return PrefixCaches(caches[0].layers, lengths, owner, columns)
        padding = round_up(sum(real)) - sum(real)
        owners = np.pad(np.repeat(np.arange(len(real)), real), (0, padding), constant_values=-1)
        places = np.pad(np.concatenate([np.arange(length) for length in real]), (0, padding))
        filled = [cache for cache in caches if cache.padded]

        def joined(layer: int, which: int) -> Array:
            parts = [c.layers[layer][which][:, : int(c.length)] for c in filled]
            return jnp.pad(jnp.concatenate(parts, axis=1), ((0, 0), (0, padding), (0, 0)))

        layers = range(len(filled[0].layers) if filled else 0)
        return PrefixCaches(
            [(joined(layer, 0), joined(layer, 1)) for layer in layers],
            lengths,
            jnp.asarray(owners, jnp.int32),
            jnp.asarray(places, jnp.int32),
        )

    def blocks(self, which: Int[Array, " B"], tokens: int) -> list[KVBlock] | None:
        """Per layer, in the form that Decoder takes, for rows of ``tokens`` behind ``which``."""
        if not self.layers:
            return None
        mask = self.owner == 0
        if self.lengths.shape[0] > 1:
            mask = jnp.repeat((self.owner == which[:, None])[:, None], tokens, axis=1)
        return [(keys, values, mask) for keys, values in self.layers]


def encode_prefix(
    decoder: Decoder, embeddings: Float[Array, "P D"], length: Int[Array, ""] | int | None = None
) -> PrefixCache:
    """Runs the decoder over a prefix once. Differentiable in ``embeddings`` and the weights.

    Args:
        embeddings: of the prefix, possibly padded at the end.
        length: how many of them are real (all, when not given).
    """
    padded = embeddings.shape[0]
    if padded == 0:
        return PrefixCache([], 0, 0)
    positions = jnp.arange(padded)[None]
    real = jnp.arange(padded) < (padded if length is None else length)
    mask = (jnp.tril(jnp.ones((padded, padded), bool)) & real[:, None])[None]
    _, keys_values = decoder(embeddings[None], positions, mask)
    layers = [(keys[0], values[0]) for keys, values in keys_values]
    return PrefixCache(layers, padded if length is None else length, padded)


def round_up(length: int, multiple: int = PREFIX_BUCKET) -> int:
    """The length rounded up to a multiple of another number."""
    return -(-length // multiple) * multiple
