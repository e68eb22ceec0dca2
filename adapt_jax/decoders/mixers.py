"""The mixers that keep a state, by the type of their config.

A mixer is a module with ``__call__(x, state, starts)``, which gives what its projection ``output``
reads and the state after each row, and ``begin(config, dtype)``, the state before the first token.
"""

from typing import Any

import jax
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.convolution import ShortConvolution
from adapt_jax.decoders.delta_net import DeltaNet
from adapt_jax.decoders.mamba2 import Mamba2
from adapt_jax.decoders.mixer_config import ConvolutionConfig, DeltaNetConfig, Mamba2Config
from adapt_jax.decoders.states import LayerState

__all__ = ["begin_state", "make_mixer"]

MIXERS: dict[type, Any] = {
    ConvolutionConfig: ShortConvolution,
    DeltaNetConfig: DeltaNet,
    Mamba2Config: Mamba2,
}


def make_mixer(config: DecoderConfig, rngs: nnx.Rngs) -> Any:
    """The mixer of a layer that has one."""
    return MIXERS[type(config.mixer)](config, rngs)


def begin_state(config: DecoderConfig, dtype: jax.typing.DTypeLike) -> LayerState:
    """The state of a row before its first token, without a row axis.

    Args:
        dtype: that hidden states are computed in.
    """
    state: LayerState = MIXERS[type(config.mixer)].begin(config, dtype)
    return state
