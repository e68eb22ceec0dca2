"""Alternating updates (2301.13310): several streams of hidden states, of which layers compute one.

The streams of a token lie side by side in its hidden states. Gemma 3n adds a learned augmented
residual layer (2411.07501).

Axes: B rows, T tokens, S streams, D embedding.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.layers import Linear, Norm

__all__ = ["AltUp", "Laurel", "Streams"]

MIN_SQUARE = 1e-5  # the least mean square of a projected stream


class Streams(nnx.Module):
    """All streams before the first layer, projected from the embeddings; their mean after the last.

    Every projection is scaled to the magnitude of the first stream.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.altup is not None
        count, embed = config.altup.num_streams, config.embed_dim

        def make_projections() -> nnx.List:
            axes = ("embed", None)
            return nnx.List([Linear(rngs, embed, embed, axes, False) for _ in range(1, count)])

        self.spread, self.gather = make_projections(), make_projections()
        self.count = count

    def split(self, x: Float[Array, "*B D"]) -> Float[Array, "*B S*D"]:
        """The streams of input embeddings."""
        others = [_match_magnitude(project(x), x) for project in self.spread]
        return jnp.concatenate([x, *others], axis=-1)

    def merge(self, x: Float[Array, "*B S*D"]) -> Float[Array, "*B D"]:
        """The mean of the streams of a token."""
        first, *others = jnp.split(x, self.count, axis=-1)
        projected = (project(one) for project, one in zip(self.gather, others, strict=True))
        matched = [_match_magnitude(one, first) for one in projected]
        return jnp.stack([first, *matched]).mean(axis=0)


def _match_magnitude(x: Float[Array, "*B D"], to: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """x with the root mean square of another array."""
    square, wanted = (
        jnp.mean(jnp.square(one.astype(jnp.float32)), axis=-1, keepdims=True) for one in (x, to)
    )
    # the root has no gradient at 0, which embeddings of padding may be
    is_positive = wanted > 0
    wanted = jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, wanted, 1.0)), 0.0)
    return (x * wanted / jnp.sqrt(jnp.maximum(square, MIN_SQUARE))).astype(x.dtype)


class AltUp(nnx.Module):
    """What a layer does with the streams: it predicts all, and corrects them by the active one."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.altup is not None
        count, embed = config.altup.num_streams, config.embed_dim
        self.router_norm = Norm(config, embed)
        self.router = Linear(rngs, embed, count, ("embed", None), False)
        self.prediction = Linear(rngs, count, count * count, (None, None), False)
        self.correction = Linear(rngs, count, count, (None, None), False)
        self.output_scale = nnx.Param(jnp.zeros(embed), axes=("embed",))
        self.config = config.altup

    def predict(self, x: Float[Array, "B T S*D"]) -> Float[Array, "B T S*D"]:
        """Each stream plus a sum of all, whose weights depend on the active one."""
        streams = self._separate(x)
        weights = self.prediction(self._route(streams[..., self.config.active, :]))
        weights = weights.reshape(*weights.shape[:-1], self.config.num_streams, -1)
        return self._join(streams + jnp.einsum("btkj,btjd->btkd", weights, streams))

    def correct(
        self, predicted: Float[Array, "B T S*D"], computed: Float[Array, "B T D"]
    ) -> Float[Array, "B T S*D"]:
        """Adds to each stream a share of what the active one lacked."""
        error = computed - self.select_active(predicted)
        shares = self.correction(self._route(computed)) + 1.0
        update = shares[..., None] * error[..., None, :]
        return self._join(self._separate(predicted) + update)

    def select_active(self, x: Float[Array, "B T S*D"]) -> Float[Array, "B T D"]:
        """The active stream."""
        return self._separate(x)[..., self.config.active, :]

    def scale_active(self, x: Float[Array, "B T S*D"]) -> Float[Array, "B T D"]:
        """The active stream, scaled where the decoder does so."""
        active = self.select_active(x)
        if not self.config.scales_output:
            return active
        return active * self.output_scale[...].astype(x.dtype)

    def add_to_others(
        self, x: Float[Array, "B T S*D"], update: Float[Array, "B T D"]
    ) -> Float[Array, "B T S*D"]:
        """Adds an update to all streams but the first."""
        return x + jnp.pad(
            jnp.tile(update, self.config.num_streams - 1), ((0, 0), (0, 0), (update.shape[-1], 0))
        )

    def _route(self, x: Float[Array, "B T D"]) -> Float[Array, "B T S"]:
        """A number between -1 and 1 for each stream."""
        routed = self.router(self.router_norm(x) * x.shape[-1] ** -1.0)
        return jnp.tanh(routed.astype(jnp.float32)).astype(x.dtype)

    def _separate(self, x: Float[Array, "B T S*D"]) -> Float[Array, "B T S D"]:
        return x.reshape(*x.shape[:-1], self.config.num_streams, -1)

    def _join(self, streams: Float[Array, "B T S D"]) -> Float[Array, "B T S*D"]:
        return streams.reshape(*streams.shape[:-2], -1)


class Laurel(nnx.Module):
    """x + norm(right(left(x))), a residual beside that of attention (2411.07501)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        assert config.altup is not None
        embed, rank = config.embed_dim, config.altup.laurel_rank
        self.left = Linear(rngs, embed, rank, ("embed", None), False)
        self.right = Linear(rngs, rank, embed, (None, "embed"), False)
        self.post_norm = Norm(config, embed)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return x + self.post_norm(self.right(self.left(x)))
