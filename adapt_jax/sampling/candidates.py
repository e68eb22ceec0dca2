"""The host's view of candidates: those that wait for a slot, and those that are being written."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Array

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.compiled import Cache
from adapt_jax.sampling.stopping import cut_at_stop
from adapt_jax.sampling.types import Candidate


@dataclass
class PendingCandidate:
    """A candidate that waits for a slot; its question is row ``row`` of an encoded batch."""

    request: int
    candidate: int
    encoded: Cache
    row: int


@dataclass
class ActiveCandidate:
    """The host's view of a candidate in a slot: what was generated so far."""

    request: int
    candidate: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)

    def extend(
        self, model: PretrainedDecoder, stop: Sequence[str], tokens: Array, scores: Array
    ) -> Candidate | None:
        """Adds the tokens of a chunk; returns the candidate when they finish it.

        Raises:
            ValueError: when the decoder's logits were not finite.
        """
        seen = len(self.tokens)
        self.tokens += tokens.tolist()
        self.log_probabilities += scores.tolist()
        eos = model.config.eos_ids
        ends = (at for at in range(seen, len(self.tokens)) if self.tokens[at] in eos)
        end = next(ends, self.limit)  # the EOS stands here
        count, reason = (end + 1, "eos") if end < self.limit else (self.limit, "length")
        readable = self.tokens[: min(end, self.limit)]
        cut = cut_at_stop(model.decode, readable, stop, seen)
        if cut is not None:
            (count, text), reason = cut, "stop"
        elif len(self.tokens) < count:
            count, text = len(self.tokens), None
        else:
            text = model.decode(readable)
        if not np.isfinite(self.log_probabilities[seen:count]).all():
            raise ValueError("not finite")
        if text is None:
            return None
        total = float(sum(self.log_probabilities[:count]))
        return Candidate(text, tuple(self.tokens[:count]), total, reason)
