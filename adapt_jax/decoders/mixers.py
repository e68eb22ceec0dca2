"""The mixers that keep a state, by the type of their config.

A mixer is a module with ``__call__(x, state, starts)`` and ``begin(config, dtype)``. The first
returns the mixed tokens, to which the layer then applies the mixer's projection ``output``, and the
state after each row; the second returns the state before the first token.
"""

from typing import Any

import jax
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.convolution import ShortConvolution
from adapt_jax.decoders.delta_net import DeltaNet
from adapt_jax.decoders.mamba import Mamba
from adapt_jax.decoders.mamba2 import Mamba2
from adapt_jax.decoders.mixer_config import (
    ConvolutionConfig,
    DeltaNetConfig,
    Mamba2Config,
    MambaConfig,
)
from adapt_jax.decoders.states import LayerState

__all__ = ["begin_state", "make_mixer"]

MIXERS: dict[type, Any] = {
    ConvolutionConfig: ShortConvolution,
    DeltaNetConfig: DeltaNet,
    Mamba2Config: Mamba2,
    MambaConfig: Mamba,
}


def make_mixer(config: DecoderConfig, rngs: nnx.Rngs) -> Any:
    """Makes the mixer of a layer, of the kind of ``config.mixer``."""
    return MIXERS[type(config.mixer)](config, rngs)


def begin_state(config: DecoderConfig, dtype: jax.typing.DTypeLike) -> LayerState:
    """The state of a row before its first token, without a row axis.

    Args:
        dtype: that hidden states are computed in.
    """
    state: LayerState = MIXERS[type(config.mixer)].begin(config, dtype)
    return state
