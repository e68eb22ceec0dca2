"""BitFit (2106.10199): a tuning method that is defined outside the package.

It trains the biases and the norms of the decoder, a few thousand parameters, and nothing else. All
that it has to say is which parameters these are; adapt_jax does the rest. Once the file is named
as a plugin, the method works in every command:

    adapt-jax compare configs/ladder.yaml --plugin examples/bitfit.py --only zero_shot,bitfit
    adapt-jax inspect embedded --plugin examples/bitfit.py --method bitfit
"""

from typing import Any

from flax import nnx

from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.tuned_decoder import TunedDecoder


@METHODS.register("bitfit", after="lora")
class BitFit(TuningMethod):
    """Trains the vectors of the decoder: biases, and the scales of its norms.

    Attributes:
        norms: whether the norms are trained too, or the biases alone.
    """

    training: TrainingConfig = TrainingConfig(learning_rate=1e-2)
    norms: bool = True

    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """Parameters named bias, and those that belong to a norm."""

        def is_trained(path: tuple[Any, ...], parameter: nnx.Param) -> bool:
            names = [str(part) for part in path]
            in_norm = any(name.endswith("norm") for name in names)
            return names[-1] == "bias" and not in_norm or in_norm and self.norms

        return is_trained
