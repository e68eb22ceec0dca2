"""Candidates on the host: those that wait for a slot, and those that are being generated."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.compiled import Cache
from adapt_jax.sampling.stopping import cut_at_stop
from adapt_jax.sampling.types import Candidate
from adapt_jax.utils.errors import UserError

__all__ = ["ActiveCandidate", "NonFiniteLogitsError", "PendingCandidate"]


class NonFiniteLogitsError(UserError):
    """The decoder gave logits that are infinite or no numbers."""


@dataclass
class PendingCandidate:
    """A candidate that waits for a slot; its question is one row of an encoded batch."""

    request: int
    candidate: int
    encoded: Cache
    row: int


@dataclass
class ActiveCandidate:
    """A candidate in a slot, with the tokens that were generated so far."""

    request: int
    candidate: int
    max_new_tokens: int
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)

    def extend(
        self,
        model: PretrainedDecoder,
        stop: Sequence[str],
        tokens: Int[np.ndarray, " C"],
        log_probabilities: Float[np.ndarray, " C"],
    ) -> Candidate | None:
        """Adds the tokens of a chunk; returns the candidate if it is finished.

        Raises:
            NonFiniteLogitsError: a token's log-probability is not finite.
        """
        checked = len(self.tokens)
        self.tokens += tokens.tolist()
        self.log_probabilities += log_probabilities.tolist()
        # 1. where EOS or the limit ends it
        eos_ids = model.config.eos_ids
        ends = (at for at in range(checked, len(self.tokens)) if self.tokens[at] in eos_ids)
        end = next(ends, self.max_new_tokens)
        length, reason = self.max_new_tokens, "length"
        if end < self.max_new_tokens:
            length, reason = end + 1, "eos"
        # 2. whether a stop string ends it before
        readable = self.tokens[: min(end, self.max_new_tokens)]
        text: str | None = None
        cut = cut_at_stop(model.decode, readable, stop, checked)
        if cut is not None:
            (length, text), reason = cut, "stop"
        elif len(self.tokens) >= length:
            text = model.decode(readable)
        # 3. tokens after the end were drawn from anything
        if not np.isfinite(self.log_probabilities[checked:length]).all():
            raise NonFiniteLogitsError
        if text is None:
            return None
        total = float(sum(self.log_probabilities[:length]))
        return Candidate(text, tuple(self.tokens[:length]), total, reason)
