"""The static shapes of sampling. Lengths are rounded up, so that compiled functions are reused."""

from dataclasses import dataclass

from adapt_jax.decoders.prefix import round_up

__all__ = [
    "CACHE_MULTIPLE",
    "MAX_QUESTION_ROWS",
    "RunShape",
    "count_question_rows",
    "limit_question_tokens",
    "pad_cache",
    "pad_prefix",
    "pad_question",
    "round_up_to_power",
]

PREFIX_MULTIPLE = 32
MIN_QUESTION_LENGTH = 32
MAX_QUESTION_ROWS = 16  # questions that are encoded at the same time
# Tokens of such questions on a CPU: twice as many take twice as long, and a batch that is not full
# wastes more.
MAX_CPU_QUESTION_TOKENS = 1024
CACHE_MULTIPLE = 16


@dataclass(frozen=True)
class RunShape:
    """The shapes of one run of the engine.

    Attributes:
        num_slots: B, the candidates that are generated at the same time.
        cache_length: S, the tokens of question and answer that a slot has room for.
        question_rows: R, the questions of a batch that is encoded, at most.
        question_tokens: tokens of such a batch, padding included, at most; None: any number. A
            single question may have more.
        questions_at_once: questions that are encoded together, in one batch or more.
    """

    num_slots: int
    cache_length: int
    question_rows: int
    question_tokens: int | None = None
    questions_at_once: int = 1

    def count_rows(self, length: int) -> int:
        """The rows of a batch of questions of this padded length."""
        if self.question_tokens is None:
            return self.question_rows
        return min(self.question_rows, max(1, self.question_tokens // length))

    def count_batches(self, length: int) -> int:
        """The batches of questions of this padded length that are encoded together."""
        return max(1, self.questions_at_once // self.count_rows(length))


def limit_question_tokens(platform: str) -> int | None:
    """``RunShape.question_tokens`` on a platform."""
    return MAX_CPU_QUESTION_TOKENS if platform == "cpu" else None


def pad_prefix(length: int) -> int:
    """The padded length of a prefix of this many tokens."""
    return round_up(length, PREFIX_MULTIPLE)


def pad_question(length: int) -> int:
    """The padded length of a question, which depends on no other question."""
    power = round_up_to_power(length)
    between = 3 * power // 4
    return max(MIN_QUESTION_LENGTH, between if length <= between else power)


def pad_cache(length: int, multiple: int = CACHE_MULTIPLE) -> int:
    """The length of each slot's cache, where at most ``length`` tokens go into it."""
    return round_up(length, multiple)


def round_up_to_power(number: int) -> int:
    """The number rounded up to a power of two."""
    return 1 << (number - 1).bit_length()


def count_question_rows(num_requests: int, num_slots: int) -> int:
    """How many questions are encoded at the same time, at most."""
    return min(MAX_QUESTION_ROWS, num_slots, round_up_to_power(num_requests))
