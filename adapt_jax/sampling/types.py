"""Inputs and outputs of the engine: configuration, requests, candidates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapt_jax.sampling.logits import SamplingParams
from adapt_jax.utils.errors import UserError

__all__ = ["Candidate", "GenerationConfig", "Request"]

MAX_TOKENS = 2**31 - 1  # counts of tokens are int32 on the device
MAX_CANDIDATES = 1_000_000
MAX_TEMPERATURE = 1000.0
# field -> its type, what holds for its values, and the same in words
RANGES: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "max_new_tokens": (int, lambda x: 1 <= x <= MAX_TOKENS, "an integer of at least 1"),
    "candidates": (int, lambda x: 1 <= x <= MAX_CANDIDATES, f"1 to {MAX_CANDIDATES:,}"),
    "temperature": (float | int, lambda x: 0 <= x <= MAX_TEMPERATURE, "0 (greedy) to 1000"),
    "top_k": (int, lambda x: 0 <= x <= MAX_TOKENS, "an integer, 0 (off) or more"),
    "top_p": (float | int, lambda x: 0 < x <= 1, "above 0, at most 1 (off)"),
    "min_p": (float | int, lambda x: 0 <= x <= 1, "0 (off) to 1"),
    "repetition_penalty": (float | int, lambda x: 1e-3 <= x <= 1e3, "0.001 to 1000 (1 is off)"),
}


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated.

    Attributes:
        max_new_tokens: of an answer; the context may leave room for fewer.
        temperature, top_k, top_p, min_p, repetition_penalty: see logits.SamplingParams.
        candidates: answers per question.
        stop: strings that end an answer and are no part of it; EOS always ends it.

    Raises:
        UserError: a value is out of range, or two contradict each other.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    candidates: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)  # JSON gives a list
        for name, (kind, is_in_range, expected) in RANGES.items():
            value = getattr(self, name)
            is_kind = isinstance(value, kind) and not isinstance(value, bool)
            if not is_kind or not is_in_range(value):
                raise UserError(f"generation_config.{name}: {value!r:.100}; expected {expected}")
        if not all(isinstance(one, str) and one for one in self.stop):
            raise UserError(
                f"generation_config.stop: {self.stop!r:.100}; expected texts that are not empty"
            )
        if self.candidates > 1 and self.temperature == 0:
            raise UserError(
                f"generation_config.candidates: {self.candidates} candidates at temperature 0 "
                "would all be the same; set a temperature above 0, or 1 candidate"
            )

    @property
    def sampling(self) -> SamplingParams:
        """The part that the compiled step depends on."""
        return SamplingParams(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty
        )


@dataclass(frozen=True)
class Request:
    """A question, to be answered after a prefix.

    Attributes:
        id: what the random draws depend on, besides the seed and the candidate's number.
        tokens: the question's token ids, at least one.
        prefix: the number of its prefix, where the engine has several.
    """

    id: str
    tokens: tuple[int, ...]
    prefix: int = 0


@dataclass(frozen=True)
class Candidate:
    """One generated answer.

    Attributes:
        text: without the EOS or the stop string that ended it.
        token_ids: what was generated, the tokens of the EOS or stop string included.
        log_probability: of these tokens under the decoder itself (temperature 1, untruncated).
        finish_reason: "eos", "stop", "length", or "too_long" if the question left no room;
            "scored" for a choice that was given and not generated.
        reasoning: the part of the text before the answer.
        answer: in canonical form; None if none was found.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probability: float
    finish_reason: str
    reasoning: str = ""
    answer: str | None = None
