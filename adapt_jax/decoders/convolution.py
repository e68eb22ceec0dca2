"""Causal convolutions over the last few tokens, each channel for itself; the layers of LFM2.

Axes: B rows, T tokens, M tokens whose output is wanted, W taps, C channels, D embedding.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.layers import Linear
from adapt_jax.decoders.mixer_config import ConvolutionConfig
from adapt_jax.decoders.states import LayerState, TextStarts

__all__ = ["CausalConvolution", "ShortConvolution"]


class CausalConvolution(nnx.Module):
    """y_t = sum over w of kernel_w · x_{t-W+1+w}, for each channel; and a bias.

    The kernel is [C, 1, W], as in checkpoints.
    """

    def __init__(self, channels: int, taps: int, bias: bool, rngs: nnx.Rngs):
        kernel = rngs.params.normal((channels, 1, taps)) * taps**-0.5
        self.taps = nnx.Param(kernel, axes=(None, None, None))
        self.bias = nnx.Param(jnp.zeros(channels), axes=(None,)) if bias else None

    def __call__(
        self, x: Float[Array, "B T C"], before: Float[Array, "B W-1 C"], starts: TextStarts
    ) -> tuple[Float[Array, "B T C"], Float[Array, "B W-1 C"]]:
        """The outputs, and the last inputs of each row. Sums are float32.

        Args:
            x: 0 where there is padding.
            before: the inputs before each row, and before each text that begins in it.
        """
        rows, tokens, _ = x.shape
        inputs, x = x, x.astype(jnp.float32)
        kernel = self.taps[...].astype(jnp.float32)[:, 0].T  # [W, C]
        taps = kernel.shape[0]
        before = before.astype(jnp.float32)
        first = starts.find_starts(rows, tokens)
        offset = jnp.arange(tokens) - first  # of each token in its text
        # 1. inputs of the text itself
        y = x * kernel[-1]
        for back in range(1, taps):
            shifted = jnp.pad(x, ((0, 0), (back, 0), (0, 0)))[:, :tokens]
            own = jnp.where((offset >= back)[..., None], shifted, 0)
            y = y + own * kernel[taps - 1 - back]
        # 2. inputs before the text, which only its first W-1 tokens reach
        for place in range(taps - 1):
            reached = before[:, place:]  # by the token at this place of the text
            update = jnp.einsum("bwc,wc->bc", reached, kernel[: taps - 1 - place])
            y = y + jnp.where((offset == place)[..., None], update[:, None], 0)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)
        last = self._keep_last(x, before, first, starts)
        return y.astype(inputs.dtype), last.astype(inputs.dtype)

    def _keep_last(
        self, x: Array, before: Array, first: Array, starts: TextStarts
    ) -> Float[Array, "B W-1 C"]:
        """The last W-1 inputs of each row, some of which may lie before it."""
        rows, tokens, _ = x.shape
        size = before.shape[1]
        end = starts.count_tokens(rows, tokens)[:, None]
        start = jnp.take_along_axis(first, jnp.maximum(end - 1, 0), axis=1)
        start = jnp.minimum(start, end)  # a row of padding alone keeps what was before it
        at = end - size + jnp.arange(size)  # [B, W-1] in the row
        own = jnp.take_along_axis(x, jnp.maximum(at, 0)[..., None], axis=1)
        earlier = jnp.clip(at - start + size, 0, size - 1)
        earlier = jnp.take_along_axis(before, earlier[..., None], axis=1)
        return jnp.where((at >= start)[..., None], own, earlier)


class ShortConvolution(nnx.Module):
    """output(C · convolution(B · x)), where B, C and x are projections (2511.23404)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        mixer, embed = config.mixer, config.embed_dim
        assert isinstance(mixer, ConvolutionConfig)
        self.input = Linear(rngs, embed, 3 * embed, ("embed", None), mixer.bias)
        self.convolution = CausalConvolution(embed, mixer.taps, mixer.bias, rngs)
        self.output = Linear(rngs, embed, embed, (None, "embed"), mixer.bias)

    def __call__(
        self, x: Float[Array, "B T D"], state: LayerState, starts: TextStarts
    ) -> tuple[Float[Array, "B T D"], LayerState]:
        """The mixed tokens, before the projection ``output``, and the state after each row."""
        before_gate, after_gate, value = jnp.split(self.input(x), 3, axis=-1)
        gated = starts.zero_padding(before_gate * value)
        y, last = self.convolution(gated, state.convolution, starts)
        return after_gate * y, LayerState(last)

    @staticmethod
    def begin(config: DecoderConfig, dtype: jax.typing.DTypeLike) -> LayerState:
        """The state of a row before its first token."""
        assert isinstance(config.mixer, ConvolutionConfig)
        return LayerState(jnp.zeros((config.mixer.taps - 1, config.embed_dim), dtype))
