"""The static shapes of sampling. Lengths are rounded up, so that compiled functions are reused."""

from dataclasses import dataclass

from adapt_jax.decoders.prefix import round_up

__all__ = [
    "CACHE_MULTIPLE",
    "MAX_QUESTION_ROWS",
    "RunShape",
    "count_batches_at_once",
    "count_question_rows",
    "pad_cache",
    "pad_prefix",
    "pad_question",
    "round_up_to_power",
]

PREFIX_MULTIPLE = 32
MIN_QUESTION_LENGTH = 32
MAX_QUESTION_ROWS = 16  # questions that are encoded at the same time
CACHE_MULTIPLE = 16


@dataclass(frozen=True)
class RunShape:
    """The shapes of one run of the engine.

    Attributes:
        num_slots: B, the candidates that are generated at the same time.
        cache_length: S, the tokens of question and answer that a slot has room for.
        question_rows: R, the questions of a batch that is encoded.
        batches_at_once: the batches that are encoded together.
    """

    num_slots: int
    cache_length: int
    question_rows: int
    batches_at_once: int = 1


def pad_prefix(length: int) -> int:
    """The padded length of a prefix of this many tokens."""
    return round_up(length, PREFIX_MULTIPLE)


def pad_question(length: int) -> int:
    """The padded length of a question, which depends on no other question."""
    return max(MIN_QUESTION_LENGTH, round_up_to_power(length))


def pad_cache(length: int, multiple: int = CACHE_MULTIPLE) -> int:
    """The length of each slot's cache, where at most ``length`` tokens go into it."""
    return round_up(length, multiple)


def round_up_to_power(number: int) -> int:
    """The number rounded up to a power of two."""
    return 1 << (number - 1).bit_length()


def count_question_rows(num_requests: int, num_slots: int) -> int:
    """How many questions are encoded at the same time."""
    return min(MAX_QUESTION_ROWS, num_slots, round_up_to_power(num_requests))


def count_batches_at_once(num_slots: int) -> int:
    """How many batches are encoded together, breadth first: as many questions as slots."""
    return max(1, num_slots // min(MAX_QUESTION_ROWS, num_slots))
