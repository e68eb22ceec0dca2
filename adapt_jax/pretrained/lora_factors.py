"""LoRA weights: low-rank updates of kernels, W + scale · B A (2106.09685, section 4.1).

Axes: R rank, I inputs, O outputs of a kernel, E experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.loading import PretrainedDecoder

__all__ = ["LoRAFactors", "LoRAWeights"]


@dataclass(frozen=True)
class LoRAFactors:
    """The update of one kernel [O, I], or of those of experts [E, I, O]; both are float32."""

    a: Float[np.ndarray, "*E R I"]
    b: Float[np.ndarray, "*E O R"]
    alpha: float

    @property
    def rank(self) -> int:
        """R."""
        return self.a.shape[-2]

    def scale(self, rank_stabilized: bool) -> float:
        """alpha / R, or alpha / sqrt(R) (rsLoRA: 2312.03732)."""
        return self.alpha / (self.rank**0.5 if rank_stabilized else self.rank)


@dataclass(frozen=True)
class LoRAWeights:
    """The updates of a decoder.

    Attributes:
        factors: by the path of the kernel.
        base_fingerprint: of the decoder that they were trained on, without them.
        rank_stabilized: whether updates are scaled as in rsLoRA.
    """

    factors: Mapping[ParameterPath, LoRAFactors]
    base_fingerprint: str
    rank_stabilized: bool = False

    def merge_into(self, model: PretrainedDecoder) -> PretrainedDecoder:
        """A decoder with the updates added to its kernels, in float32; ``model`` is not changed.

        Kernels without an update are shared between the two.
        """
        decoder = nnx.clone(model.decoder)
        state = dict(nnx.to_flat_state(nnx.state(decoder, nnx.Param)))
        for path, factors in self.factors.items():
            kernel = state[path].get_value()
            a, b = jnp.asarray(factors.a), jnp.asarray(factors.b)
            update = jnp.matmul(b, a, precision="highest") * factors.scale(self.rank_stabilized)
            if kernel.ndim == 3:  # experts
                update = update.swapaxes(1, 2)
            merged = (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
            state[path] = state[path].replace(jax.device_put(merged, kernel.sharding))
        nnx.update(decoder, nnx.from_flat_state(list(state.items())))
        return replace(model, decoder=decoder)
