"""Mamba 2 layers (2405.21060): a state space whose parameters depend on the tokens.

Axes: B rows, T tokens, D embedding, N heads, V size of a head, G groups of heads, K size of the
state, W taps of the convolution, C its channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.convolution import CausalConvolution
from adapt_jax.decoders.delta_rule import DeltaInputs, apply_delta_rule
from adapt_jax.decoders.layers import Linear, scale
from adapt_jax.decoders.mixer_config import Mamba2Config
from adapt_jax.decoders.states import LayerState, TextStarts

__all__ = ["Mamba2"]


class GroupNorm(nnx.Module):
    """x · silu(gate), then the root mean square norm of each group of features.

    Args:
        place: of the norm: "after" the gate, "before" it, or "none".
    """

    def __init__(self, size: int, groups: int, eps: float, place: str):
        self.scale = nnx.Param(jnp.ones(size), axes=(None,)) if place != "none" else None
        self.groups, self.eps, self.place = groups, eps, place

    def __call__(
        self, x: Float[Array, "*B N*V"], gate: Float[Array, "*B N*V"]
    ) -> Float[Array, "*B N*V"]:
        wide, gate = x.astype(jnp.float32), jax.nn.silu(gate.astype(jnp.float32))
        if self.scale is None:
            return (wide * gate).astype(x.dtype)
        wide = wide * gate if self.place == "after" else wide
        wide = wide.reshape(*x.shape[:-1], self.groups, -1)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        wide = wide.reshape(x.shape) * self.scale[...].astype(jnp.float32)
        return (wide if self.place == "after" else wide * gate).astype(x.dtype)


class Mamba2(nnx.Module):
    """Values, keys and queries (x, B and C in the paper) behind a convolution; the state; a norm.

    A token's time step scales what it writes, and how much of the state it forgets.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        mixer, embed = config.mixer, config.embed_dim
        assert isinstance(mixer, Mamba2Config)

        def make_projection(size: int) -> Linear:
            return Linear(rngs, embed, size, ("embed", None), mixer.bias)

        self.output_gate = make_projection(mixer.value_size)
        self.value = make_projection(mixer.value_size)
        self.key = make_projection(mixer.key_size)
        self.query = make_projection(mixer.key_size)
        self.time_step = make_projection(mixer.num_heads)
        channels = mixer.value_size + 2 * mixer.key_size
        self.convolution = CausalConvolution(channels, mixer.taps, mixer.convolution_bias, rngs)
        # the decay of a head is exp(-exp(decay_log) · softplus(projection + time_step_bias))
        self.decay_log = nnx.Param(jnp.zeros(mixer.num_heads), axes=(None,))
        self.time_step_bias = nnx.Param(jnp.ones(mixer.num_heads), axes=(None,))
        self.skip = nnx.Param(jnp.ones(mixer.num_heads), axes=(None,))
        place = mixer.gated_norm
        self.norm = GroupNorm(mixer.value_size, mixer.num_groups, config.norm_eps, place)
        bias = mixer.bias if mixer.output_bias is None else mixer.output_bias
        self.output = Linear(rngs, mixer.value_size, embed, (None, "embed"), bias)
        self.factors = config.multipliers.mixer_projections
        self.mixer, self.activation = mixer, mixer.activation or config.activation

    def __call__(
        self, x: Float[Array, "B T D"], state: LayerState, starts: TextStarts
    ) -> tuple[Float[Array, "B T N*V"], LayerState]:
        """The mixed tokens, before the projection ``output``, and the state after each row."""
        assert state.recurrent is not None
        mixer = self.mixer
        rows, tokens, _ = x.shape
        # values, keys and queries of the last few tokens
        of_gate, *of_channels, of_step = self.factors
        projected = zip((self.value(x), self.key(x), self.query(x)), of_channels, strict=True)
        channels = jnp.concatenate([scale(*one) for one in projected], axis=-1)
        channels, last = self.convolution(starts.zero_padding(channels), state.convolution, starts)
        channels = apply_activation(self.activation, channels).astype(jnp.float32)
        sizes = [mixer.value_size, mixer.value_size + mixer.key_size]
        value, key, query = (
            one.reshape(rows, tokens, heads, -1)
            for one, heads in zip(
                jnp.split(channels, sizes, axis=-1),
                (mixer.num_heads, mixer.num_groups, mixer.num_groups),
                strict=True,
            )
        )
        group = mixer.num_heads // mixer.num_groups
        query, key = (jnp.repeat(one, group, axis=2) for one in (query, key))
        # the time step of each head; that of padding is 0
        bias = self.time_step_bias[...].astype(jnp.float32)
        step = scale(self.time_step(x), of_step).astype(jnp.float32)
        step = jax.nn.softplus(step + bias)
        step = starts.zero_padding(step)
        decay = -jnp.exp(self.decay_log[...].astype(jnp.float32)) * step
        inputs = DeltaInputs(query, key, value * step[..., None], decay)
        mixed, recurrent = apply_delta_rule(inputs, state.recurrent, starts.begins)
        mixed = mixed + value * self.skip[...].astype(jnp.float32)[:, None]
        mixed = mixed.reshape(rows, tokens, -1).astype(x.dtype)
        gate = scale(self.output_gate(x), of_gate)
        return self.norm(mixed, gate), LayerState(last, recurrent)

    @staticmethod
    def begin(config: DecoderConfig, dtype: jax.typing.DTypeLike) -> LayerState:
        """The state of a row before its first token."""
        mixer = config.mixer
        assert isinstance(mixer, Mamba2Config)
        channels = mixer.value_size + 2 * mixer.key_size
        return LayerState(
            jnp.zeros((mixer.taps - 1, channels), dtype),
            jnp.zeros((mixer.num_heads, mixer.state_dim, mixer.head_dim), jnp.float32),
        )
