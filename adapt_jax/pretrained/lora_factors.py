"""LoRA weights: low-rank updates of kernels, W + scale · B A (2106.09685, section 4.1).

With DoRA the rows of the updated kernel are rescaled to learned magnitudes (2402.09353, section 4).

Axes: R rank, I inputs, O outputs of a kernel, E experts. An embedding table [V, D] is a kernel of D
inputs and V outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT, untie_output

__all__ = ["EMBEDDING_TABLES", "LoRAFactors", "LoRAWeights", "are_equal", "find_magnitude_axis"]

EMBEDDING_TABLES = ("embedding", "position_embedding")  # the last names of their paths


@dataclass(frozen=True)
class LoRAFactors:
    """The update of one kernel [O, I], or of those of experts [E, I, O]; all are float32.

    Attributes:
        magnitude: of DoRA, the norms of the rows of the merged kernel, [O]; those of the columns
            of a merged embedding table, [I]. None for LoRA alone.
    """

    a: Float[np.ndarray, "*E R I"]
    b: Float[np.ndarray, "*E O R"]
    alpha: float
    magnitude: Float[np.ndarray, " N"] | None = None

    @property
    def rank(self) -> int:
        """R."""
        return self.a.shape[-2]

    def scale(self, rank_stabilized: bool) -> float:
        """alpha / R, or alpha / sqrt(R) (rsLoRA: 2312.03732)."""
        return self.alpha / (self.rank**0.5 if rank_stabilized else self.rank)

    def update(self, kernel: Array, rank_stabilized: bool, magnitude_axis: int) -> Array:
        """The merged kernel in float32, [O, I] or [E, I, O].

        Args:
            magnitude_axis: of the kernel, see ``find_magnitude_axis``.
        """
        a, b = jnp.asarray(self.a), jnp.asarray(self.b)
        change = jnp.matmul(b, a, precision="highest") * self.scale(rank_stabilized)
        if kernel.ndim == 3:  # experts
            change = change.swapaxes(1, 2)
        updated = kernel.astype(jnp.float32) + change
        if self.magnitude is None:
            return updated
        other = 1 - magnitude_axis
        norms = jnp.linalg.norm(updated, axis=other, keepdims=True)
        magnitude = jnp.expand_dims(jnp.asarray(self.magnitude), other)
        # zeros have no direction, and stay zero
        return updated * jnp.where(norms > 0, magnitude / jnp.where(norms > 0, norms, 1.0), 0.0)


def find_magnitude_axis(path: ParameterPath) -> int:
    """The axis of a kernel along which DoRA has its magnitudes.

    They belong to outputs. PEFT has those of an embedding table [V, D] along D.
    """
    return 1 if path[-1] in EMBEDDING_TABLES else 0


def are_equal(one: LoRAFactors | None, other: LoRAFactors | None) -> bool:
    """Whether both make the same update."""
    if one is None or other is None:
        return one is other
    pairs = ((one.a, other.a), (one.b, other.b), (one.magnitude, other.magnitude))
    return one.alpha == other.alpha and all(
        (x is None and y is None) or (x is not None and y is not None and np.array_equal(x, y))
        for x, y in pairs
    )


@dataclass(frozen=True)
class LoRAWeights:
    """The updates of a decoder.

    Attributes:
        factors: by the path of the kernel. Where the output is tied to the embedding, each of the
            two has factors of its own: ("output", "kernel") counts, although the decoder has none.
        base_fingerprint: of the decoder that they were trained on, without them.
        rank_stabilized: whether updates are scaled as in rsLoRA.
    """

    factors: Mapping[ParameterPath, LoRAFactors]
    base_fingerprint: str
    rank_stabilized: bool = False

    @property
    def has_magnitudes(self) -> bool:
        """Whether they are those of DoRA."""
        return any(factors.magnitude is not None for factors in self.factors.values())

    def merge_into(self, model: PretrainedDecoder) -> PretrainedDecoder:
        """A decoder with the updates added to its kernels, in float32; ``model`` is not changed.

        Kernels without an update are shared between the two. A tied output gets a kernel of its
        own, if embedding and output are not updated alike.
        """
        is_tied = model.config.tie_embeddings
        if is_tied and not are_equal(self.factors.get(EMBEDDING), self.factors.get(OUTPUT)):
            model, is_tied = untie_output(model), False
        decoder = nnx.clone(model.decoder)
        state = dict(nnx.to_flat_state(nnx.state(decoder, nnx.Param)))
        for path, factors in self.factors.items():
            if is_tied and path == OUTPUT:
                continue  # it is the embedding
            kernel = state[path].get_value()
            updated = factors.update(kernel, self.rank_stabilized, find_magnitude_axis(path))
            merged = updated.astype(kernel.dtype)
            state[path] = state[path].replace(jax.device_put(merged, kernel.sharding))
        nnx.update(decoder, nnx.from_flat_state(list(state.items())))
        return replace(model, decoder=decoder)
