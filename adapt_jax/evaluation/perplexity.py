"""How well a decoder predicts plain texts: perplexity and bits per byte."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.likelihood import MultipleChoiceRequest, score_continuations
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.progress import OnProgress

__all__ = ["TextLikelihood", "measure_perplexity"]


@dataclass(frozen=True)
class TextLikelihood:
    """The likelihood of all texts together.

    Attributes:
        texts, words, utf8_bytes, tokens: how many; words are what white space divides, as
            lm-evaluation-harness counts them.
        log_likelihood: summed over all tokens, in nats.
    """

    texts: int
    words: int
    utf8_bytes: int
    tokens: int
    log_likelihood: float

    @property
    def perplexity(self) -> float:
        """Per token; comparable between decoders with the same tokenizer only."""
        return self._exponentiate(self.tokens)

    @property
    def word_perplexity(self) -> float:
        """Per word (the harness's ``word_perplexity``)."""
        return self._exponentiate(self.words)

    @property
    def byte_perplexity(self) -> float:
        """Per byte (the harness's ``byte_perplexity``)."""
        return self._exponentiate(self.utf8_bytes)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between all decoders (the harness's ``bits_per_byte``)."""
        return -self.log_likelihood / self.utf8_bytes / math.log(2)

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        names = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}

    def _exponentiate(self, count: int) -> float:
        mean = -self.log_likelihood / count
        return math.exp(mean) if mean < 700 else math.inf


def measure_perplexity(
    model: PretrainedDecoder,
    texts: Sequence[str],
    *,
    on_progress: OnProgress | None = None,
) -> TextLikelihood:
    """Scores every token of the texts once.

    A text longer than the context is cut into windows, each of which predicts as many tokens as fit
    and sees one token before them (loglikelihood_rolling of lm-evaluation-harness). The first token
    is predicted after BOS, or EOS where the tokenizer has no BOS.

    Args:
        on_progress: called with the windows that are scored, and their number.

    Raises:
        UserError: a text is empty, or there is no token to begin with.
    """
    if not texts or not all(text.strip() for text in texts):
        raise UserError("perplexity: expected texts; found an empty one")
    begin = model.config.bos_id if model.config.bos_id is not None else _first(model.config.eos_ids)
    if begin is None:
        raise UserError(f"{model.path}: has neither BOS nor EOS to begin a text with")
    room = model.config.context_length
    requests = [
        window
        for text in texts
        for window in _cut_windows(model.encode(text, bos=False), begin, room)
    ]
    total = []
    for done, (_, [found]) in enumerate(score_continuations(model, Prefix(), requests), start=1):
        total.append(found.log_probability)
        if on_progress is not None:
            on_progress(done, len(requests))
    return TextLikelihood(
        texts=len(texts),
        words=sum(len(text.split()) for text in texts),
        utf8_bytes=sum(len(text.encode("utf-8")) for text in texts),
        tokens=sum(one.num_targets for one in requests),
        log_likelihood=math.fsum(total),
    )


def _cut_windows(tokens: Sequence[int], begin: int, room: int) -> Iterator[MultipleChoiceRequest]:
    """Windows that predict each token once; the last one reads as much context as fits."""
    joint = (begin, *tokens)  # a token is predicted by what is before it
    for start in range(1, len(joint), room):
        end = min(start + room, len(joint))
        # the harness begins the last window so that it is full
        first = max(0, min(start - 1, end - room - 1)) if start > 1 else 0
        yield MultipleChoiceRequest(joint[first:start], (joint[start:end],))


def _first(ids: Sequence[int]) -> int | None:
    return ids[0] if ids else None
