"""What is asked of the engine, and what comes back: options, requests, candidates."""

from dataclasses import dataclass

from adapt_jax.sampling.logits import SamplingParams
from adapt_jax.utils.errors import UserError


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated.

    Attributes:
        max_new_tokens: after the question; the context may leave less.
        temperature, top_k, top_p, min_p, repetition_penalty: see logits.Sampling.
        candidates: texts per question.
        stop: strings that end a text, and are not part of it; EOS always does.

    Raises:
        UserError: for values that contradict each other or are out of range.
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
        object.__setattr__(self, "stop", stop)  # JSON brings a list
        wrong = [
            (self.max_new_tokens < 1, "max_new_tokens", "at least 1"),
            (self.candidates < 1, "candidates", "at least 1"),
            (not 0 <= self.temperature < float("inf"), "temperature", "0 or more"),
            (self.top_k < 0, "top_k", "0 (off) or more"),
            (not 0 < self.top_p <= 1, "top_p", "above 0, at most 1 (off)"),
            (not 0 <= self.min_p <= 1, "min_p", "between 0 (off) and 1"),
            (
                not 0 < self.repetition_penalty < float("inf"),
                "repetition_penalty",
                "above 0 (1 is off)",
            ),
            ("" in self.stop, "stop", "no empty string, which would end every text"),
        ]
        for is_wrong, name, expected in wrong:
            if is_wrong:
                raise UserError(
                    f"generation_config.{name}: {getattr(self, name)!r}; expected {expected}"
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
    """A question as tokens, to be answered behind a prefix. Draws depend on its ``id``.

    ``prefix`` says behind which, where the engine was given several.
    """

    id: str
    tokens: tuple[int, ...]
    prefix: int = 0


@dataclass(frozen=True)
class Candidate:
    """One generated text.

    Attributes:
        token_ids: what was generated, the EOS or the stop string's tokens included.
        log_probability: of these tokens under the decoder itself (temperature 1, untruncated).
        finish_reason: "eos", "stop", "length", or "too_long" where the question left no room.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probability: float
    finish_reason: str
    reasoning: str = ""
    answer: str | None = None
