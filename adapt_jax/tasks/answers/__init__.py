"""What an answer is: how it is read from a text, compared and scored."""

from adapt_jax.tasks.answers.parsers import (
    PARSERS,
    AnswerParser,
    answers_match,
    canonicalize_option,
    find_parser,
    read_answer,
    read_gold,
    shorten_parser_name,
)

__all__ = [
    "PARSERS",
    "AnswerParser",
    "answers_match",
    "canonicalize_option",
    "find_parser",
    "read_answer",
    "read_gold",
    "shorten_parser_name",
]
