"""The state of a layer without attention: small arrays that stand for all tokens it has read.

Attention keeps keys and values of every token, and masks hide those that a token must not see. A
state cannot be masked afterwards. So padding must leave it unchanged, and a text that begins within
a row must begin with the state that the prefix left.

Axes: B rows, T tokens, W taps of a convolution, C its channels, N heads, K and V sizes of a head.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.attention import PackedRows

__all__ = ["LayerState", "TextStarts"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerState:
    """What a layer without attention keeps. A prefix's state has no row axis.

    Attributes:
        convolution: the last inputs of its convolution.
        recurrent: the state of its recurrence, float32; None where it has only a convolution.
    """

    convolution: Float[Array, "*B W-1 C"]
    recurrent: Float[Array, "*B N K V"] | None = None

    def repeat(self, rows: int) -> "LayerState":
        """The state of a prefix for each of the rows."""
        repeat = lambda x: jnp.broadcast_to(x, (rows, *x.shape))  # noqa: E731
        return jax.tree.map(repeat, self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextStarts:
    """Which tokens are real, and where texts begin in rows.

    Attributes:
        is_real: whether a token is no padding; None: all are real.
        begins: whether a token is the first of a text; the others continue what is before them.
            None: the rows continue from their states.
    """

    is_real: Bool[Array, "B T"] | None = None
    begins: Bool[Array, "B T"] | None = None

    @staticmethod
    def from_mask(mask: Bool[Array, "B T S"] | PackedRows | None) -> "TextStarts":
        """Reads them from the attention mask of rows without a cache.

        Args:
            mask: as in ``Decoder.__call__``. A token continues the token before it if it attends
                to it, and is padding if it does not attend to itself.
        """
        if mask is None:
            return TextStarts()
        if isinstance(mask, PackedRows):
            segments = mask.segments
            is_real = segments > 0
            continues = segments[:, 1:] == segments[:, :-1]
        else:
            is_real = jnp.diagonal(mask, axis1=1, axis2=2)
            continues = jnp.diagonal(mask, offset=-1, axis1=1, axis2=2)
        continues = jnp.pad(continues, ((0, 0), (1, 0)))
        return TextStarts(is_real, is_real & ~continues)

    def zero_padding(self, x: Float[Array, "B T *F"]) -> Float[Array, "B T *F"]:
        """The values with those of padding replaced by 0."""
        if self.is_real is None:
            return x
        return jnp.where(self.is_real.reshape(*self.is_real.shape, *(1,) * (x.ndim - 2)), x, 0)

    def find_starts(self, rows: int, tokens: int) -> Int[Array, "B T"]:
        """The index in the row at which each token's text begins; 0 if that was before the row."""
        index = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (rows, tokens))
        if self.begins is None:
            return jnp.zeros_like(index)
        return jax.lax.cummax(jnp.where(self.begins, index, 0), axis=1)

    def count_tokens(self, rows: int, tokens: int) -> Int[Array, " B"]:
        """The index after each row's last real token."""
        if self.is_real is None:
            return jnp.full(rows, tokens, jnp.int32)
        index = jnp.arange(1, tokens + 1, dtype=jnp.int32)
        return jnp.max(jnp.where(self.is_real, index, 0), axis=1)
