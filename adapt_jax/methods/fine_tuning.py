"""Fine-tuning: the decoder's own parameters are trained on the task's labelled examples.

The traditional way, and the upper end in cost: the optimizer holds two more numbers per trained
parameter, and the result is a whole decoder per task. It is enough, and often the best, where
there are thousands of examples; with few of them LoRA forgets less. ``trainable`` restricts it to
parts. Paper: BERT, 1810.04805, section 3.2; for decoders GPT, section 3.2.
"""

import re
from typing import Any

from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.layout import PARAMETER_KINDS
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import get_parameters
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.patterns import BoundedPatterns

__all__ = ["FineTuning", "select_parameters"]

PARTS = {"all": "", **PARAMETER_KINDS}  # the parts that have a name
MAX_PATTERN_SECONDS = 10.0  # for all parts together


@METHODS.register("fine_tuning")
class FineTuning(TuningMethod):
    """Trains ``all`` parameters, or those of chosen parts; the loss is on the answer only.

    Attributes:
        trainable: a part or a list of them: embedding, attention, mixer, ffn, norm, output,
            ``layers.N``, or a regular expression that is searched in the parameters' paths.
    """

    training: TrainingConfig = TrainingConfig(learning_rate=1e-3)
    trainable: str | list[str] = "all"

    def trainable_filter(self, tuned: TunedDecoder) -> Any:
        """The parameters of the chosen parts.

        Raises:
            UserError: a part that this decoder does not have.
        """
        return select_parameters(tuned.decoder, self.trainable)


def select_parameters(decoder: Decoder, parts: str | list[str]) -> Any:
    """An nnx filter of the parameters in ``parts``, of the decoder alone or in a TunedDecoder.

    Raises:
        UserError: a part that selects nothing, is not a regular expression, or takes too long.
    """
    paths = {".".join(map(str, path)) for path in get_parameters(decoder)}
    selected: set[str] = set()
    patterns = BoundedPatterns("fine_tuning.trainable", MAX_PATTERN_SECONDS)
    for part in [parts] if isinstance(parts, str) else parts:
        layer = re.fullmatch(r"layers\.(\d+)", part)
        pattern = rf"^layers\.{layer[1]}\." if layer else PARTS.get(part, part)
        found = {path for path in paths if patterns.search(pattern, path)}
        if not found:
            tied = " (its output is tied to the embedding)" if part == "output" else ""
            raise UserError(
                f"fine_tuning.trainable: {part!r} selects no parameter of this decoder{tied}; "
                f"expected one of {', '.join(PARTS)}, layers.N, or an expression that occurs in a "
                f"path such as {max(paths)}"
            )
        selected |= found

    def is_selected(path: Any, value: Any) -> bool:
        names = [str(part) for part in path]
        return ".".join(names[1:] if names[:1] == ["decoder"] else names) in selected

    return is_selected
