"""Gated delta net layers (2412.06464), as in Qwen3-Next and Qwen3.5.

Axes: B rows, T tokens, D embedding, N value heads, G key heads, K and V sizes of a head,
W taps of the convolution, C its channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.activations import apply_activation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.convolution import CausalConvolution
from adapt_jax.decoders.delta_rule import DeltaInputs, apply_delta_rule
from adapt_jax.decoders.layers import Linear
from adapt_jax.decoders.mixer_config import DeltaNetConfig
from adapt_jax.decoders.states import LayerState, TextStarts

__all__ = ["DeltaNet", "GatedNorm"]

MIN_SQUARE = 1e-6  # added to the squared length of queries and keys


class GatedNorm(nnx.Module):
    """Root mean square norm of each head, times silu of a gate."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones(size), axes=(None,))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B V"], gate: Float[Array, "*B V"]) -> Float[Array, "*B V"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        wide = wide * self.scale[...].astype(jnp.float32)
        return (wide * jax.nn.silu(gate.astype(jnp.float32))).astype(gate.dtype)


class DeltaNet(nnx.Module):
    """Queries, keys and values behind a convolution; the gated delta rule; a gated norm."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        mixer, embed = config.mixer, config.embed_dim
        assert isinstance(mixer, DeltaNetConfig)

        def make_projection(size: int) -> Linear:
            return Linear(rngs, embed, size, ("embed", None), False)

        self.query = make_projection(mixer.key_size)
        self.key = make_projection(mixer.key_size)
        self.value = make_projection(mixer.value_size)
        self.output_gate = make_projection(mixer.value_size)
        self.strength = make_projection(mixer.num_value_heads)
        self.decay = make_projection(mixer.num_value_heads)
        self.convolution = CausalConvolution(mixer.num_channels, mixer.taps, False, rngs)
        # the decay of a head is exp(-exp(decay_log) · softplus(projection + decay_bias))
        self.decay_log = nnx.Param(jnp.zeros(mixer.num_value_heads), axes=(None,))
        self.decay_bias = nnx.Param(jnp.ones(mixer.num_value_heads), axes=(None,))
        self.norm = GatedNorm(mixer.value_dim, config.norm_eps)
        self.output = Linear(rngs, mixer.value_size, embed, (None, "embed"), False)
        self.mixer, self.activation = mixer, config.activation

    def __call__(
        self, x: Float[Array, "B T D"], state: LayerState, starts: TextStarts
    ) -> tuple[Float[Array, "B T N*V"], LayerState]:
        """The mixed tokens, before the projection ``output``, and the state after each row."""
        assert state.recurrent is not None
        rows, tokens, _ = x.shape
        # queries, keys and values of the last few tokens
        channels = jnp.concatenate([self.query(x), self.key(x), self.value(x)], axis=-1)
        channels, last = self.convolution(starts.zero_padding(channels), state.convolution, starts)
        inputs = self._make_inputs(x, apply_activation(self.activation, channels), starts)
        mixed, recurrent = apply_delta_rule(inputs, state.recurrent, starts.begins)
        gate = self.output_gate(x).reshape(rows, tokens, -1, self.mixer.value_dim)
        normed = self.norm(mixed.astype(x.dtype), gate)
        return normed.reshape(rows, tokens, -1), LayerState(last, recurrent)

    def _make_inputs(self, x: Array, channels: Array, starts: TextStarts) -> DeltaInputs:
        """What the delta rule takes, for each value head."""
        mixer, size = self.mixer, self.mixer.key_size
        query, key, value = (
            part.reshape(*part.shape[:2], -1, dim).astype(jnp.float32)
            for part, dim in zip(
                jnp.split(channels, [size, 2 * size], axis=-1),
                (mixer.key_dim, mixer.key_dim, mixer.value_dim),
                strict=True,
            )
        )
        group = mixer.num_value_heads // mixer.num_key_heads
        query, key = (jnp.repeat(_normalize(one), group, axis=2) for one in (query, key))
        strength = jax.nn.sigmoid(self.strength(x)).astype(jnp.float32)
        bias = self.decay_bias[...].astype(jnp.float32)
        decay = jax.nn.softplus(self.decay(x).astype(jnp.float32) + bias)
        decay = -jnp.exp(self.decay_log[...].astype(jnp.float32)) * decay
        return DeltaInputs(
            query * mixer.key_dim**-0.5,
            key,
            value,
            starts.zero_padding(decay),
            starts.zero_padding(strength),
        )

    @staticmethod
    def begin(config: DecoderConfig, dtype: jax.typing.DTypeLike) -> LayerState:
        """The state of a row before its first token."""
        mixer = config.mixer
        assert isinstance(mixer, DeltaNetConfig)
        return LayerState(
            jnp.zeros((mixer.taps - 1, mixer.num_channels), dtype),
            jnp.zeros((mixer.num_value_heads, mixer.key_dim, mixer.value_dim), jnp.float32),
        )


def _normalize(x: Float[Array, "*B K"]) -> Float[Array, "*B K"]:
    """Vectors of length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + MIN_SQUARE)
