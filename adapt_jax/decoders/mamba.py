"""Mamba layers (2312.00752): a state of each channel, which the tokens choose to keep or change.

Axes: B rows, T tokens, D embedding, I channels, K size of a channel's state, R rank of time steps,
W taps of the convolution, C chunks, L tokens of a chunk.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.convolution import CausalConvolution
from adapt_jax.decoders.layers import Linear
from adapt_jax.decoders.mixer_config import MambaConfig
from adapt_jax.decoders.states import LayerState, TextStarts

__all__ = ["Mamba", "apply_selective_scan"]

CHUNK_LENGTH = 64  # tokens whose states are computed again in the backward pass


class Mamba(nnx.Module):
    """Values behind a convolution; time step, key and query (dt, B and C in the paper) of them."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        mixer, embed = config.mixer, config.embed_dim
        assert isinstance(mixer, MambaConfig)
        inner, size, rank = mixer.inner_dim, mixer.state_dim, mixer.time_step_rank
        self.value = Linear(rngs, embed, inner, ("embed", None), mixer.bias)
        self.output_gate = Linear(rngs, embed, inner, ("embed", None), mixer.bias)
        self.convolution = CausalConvolution(inner, mixer.taps, mixer.convolution_bias, rngs)
        self.time_step_down = Linear(rngs, inner, rank, (None, None), False)
        self.key = Linear(rngs, inner, size, (None, None), False)
        self.query = Linear(rngs, inner, size, (None, None), False)
        self.time_step = Linear(rngs, rank, inner, (None, None), True)
        # the decay of a state is exp(-exp(decay_log) · time step)
        self.decay_log = nnx.Param(jnp.zeros((inner, size)), axes=(None, None))
        self.skip = nnx.Param(jnp.ones(inner), axes=(None,))
        self.output = Linear(rngs, inner, embed, (None, "embed"), mixer.bias)
        self.mixer, self.activation = mixer, config.activation

    def __call__(
        self, x: Float[Array, "B T D"], state: LayerState, starts: TextStarts
    ) -> tuple[Float[Array, "B T I"], LayerState]:
        """The mixed tokens, before the projection ``output``, and the state after each row."""
        assert state.recurrent is not None
        # values of the last few tokens
        channels = starts.zero_padding(self.value(x))
        channels, last = self.convolution(channels, state.convolution, starts)
        value = apply_activation(self.activation, channels)
        step, key, query = (
            self._norm(project(value)) for project in (self.time_step_down, self.key, self.query)
        )
        # the time step of padding is 0, so that it leaves the state as it is
        step = jax.nn.softplus(self.time_step(step).astype(jnp.float32))
        step, wide = starts.zero_padding(step), value.astype(jnp.float32)
        rates = -jnp.exp(self.decay_log[...].astype(jnp.float32))
        mixed, recurrent = apply_selective_scan(
            (wide * step, step, key.astype(jnp.float32), query.astype(jnp.float32)),
            rates,
            state.recurrent[..., 0],
            starts.begins,
        )
        mixed = mixed + wide * self.skip[...].astype(jnp.float32)
        gate = jax.nn.silu(self.output_gate(x).astype(jnp.float32))
        return (mixed * gate).astype(x.dtype), LayerState(last, recurrent[..., None])

    def _norm(self, x: Float[Array, "B T K"]) -> Float[Array, "B T K"]:
        """The root mean square norm without a scale, where the mixer has it (Falcon-Mamba)."""
        if self.mixer.norm_eps is None:
            return x
        wide = x.astype(jnp.float32)
        square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(square + self.mixer.norm_eps)).astype(x.dtype)

    @staticmethod
    def begin(config: DecoderConfig, dtype: jax.typing.DTypeLike) -> LayerState:
        """The state of a row before its first token."""
        mixer = config.mixer
        assert isinstance(mixer, MambaConfig)
        return LayerState(
            jnp.zeros((mixer.taps - 1, mixer.inner_dim), dtype),
            jnp.zeros((mixer.inner_dim, mixer.state_dim, 1), jnp.float32),
        )


def apply_selective_scan(
    inputs: tuple[Array, Array, Array, Array],
    rates: Float[Array, "I K"],
    state: Float[Array, "B I K"],
    begins: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T I"], Float[Array, "B I K"]]:
    """The outputs of the tokens, and the state after each row, token by token (section 3.2).

    For each token, S <- exp(step · rates) · S + written · key; the output is S · query.

    Args:
        inputs: written and step [B, T, I], key and query [B, T, K] of the tokens, float32.
        state: of each row before its first token, and before each text that begins in it.
        begins: whether a token is the first of a text; None: the rows go on from ``state``.
    """
    tokens = inputs[0].shape[1]
    begins = jnp.zeros(inputs[0].shape[:2], bool) if begins is None else begins

    def step(before: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        written, time, key, query, is_first = token
        before = jnp.where(is_first[:, None, None], state, before)
        after = jnp.exp(time[..., None] * rates) * before + written[..., None] * key[:, None]
        return after, jnp.einsum("bik,bk->bi", after, query, precision="highest")

    def run_chunk(before: Array, chunk: Any) -> tuple[Array, Array]:
        return jax.lax.scan(step, before, chunk)

    if tokens == 1:
        state_after, output = step(state, tuple(x[:, 0] for x in (*inputs, begins)))
        return output[:, None], state_after
    length = min(CHUNK_LENGTH, tokens)
    chunks = tuple(_cut(x, length) for x in (*inputs, begins))
    state_after, outputs = jax.lax.scan(jax.checkpoint(run_chunk), state, chunks)  # [C, L, B, I]
    outputs = outputs.reshape(-1, *outputs.shape[2:]).swapaxes(0, 1)
    return outputs[:, :tokens], state_after


def _cut(x: Array, length: int) -> Array:
    """[B, T, ...] as chunks [C, L, B, ...]; the last one is filled with zeros."""
    padding = -x.shape[1] % length
    x = jnp.pad(x, ((0, 0), (0, padding), *((0, 0) for _ in x.shape[2:])))
    return x.swapaxes(0, 1).reshape(-1, length, x.shape[0], *x.shape[2:])
